"""The FRS mask of the teacher's logits."""

OPS = ("mask",)


def test_mask(case, provider, measure):
    measure(case, provider)
