"""The head term: binary cross-entropy between logits, multiplied by a mask."""

OPS = ("head",)


def test_head(case, provider, measure):
    measure(case, provider)
