"""The imitation term: squared error between features, multiplied by a mask."""

OPS = ("imitation",)


def test_imitation(case, provider, measure):
    measure(case, provider)
