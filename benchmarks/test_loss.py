"""The whole loss, each provider by itself; "loss-masks" is given the maps. See test_race for ratios."""

OPS = ("loss", "loss-masks")


def test_loss(case, provider, measure):
    measure(case, provider)
