"""The whole loss, each provider on its own; "loss-masks" gets the masks as arguments. Ratios: test_race."""

OPS = ("loss", "loss-masks")


def test_loss(case, provider, measure):
    measure(case, provider)
