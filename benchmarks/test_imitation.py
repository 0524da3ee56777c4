"""The imitation loss: squared error between features, weighted by a map."""

OPS = ("imitation",)


def test_imitation(case, provider, measure):
    measure(case, provider)
