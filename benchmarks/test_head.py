"""The head loss: binary cross-entropy between logits, weighted by a map."""

OPS = ("head",)


def test_head(case, provider, measure):
    measure(case, provider)
