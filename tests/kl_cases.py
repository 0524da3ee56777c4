"""The arguments of weighted_kl in the tests of several files."""

import torch
from cases import SIZES, random_masks, tensors

WRT = ("student",)  # gradients are taken with respect to it


def arguments(
    channels=12, *, over="channels", sizes=SIZES, dtype=torch.float32, teacher_dtype=None, layout="nchw",
    device="cpu", batch=2, spread=3.0, weighted=True,
):  # fmt: skip
    """Student and teacher logits and, if ``weighted``, what weights the distributions."""
    common = {"sizes": sizes, "layout": layout, "device": device, "batch": batch, "spread": spread}
    given = {
        "student": tensors(channels, dtype=dtype, seed=1, **common),
        "teacher": tensors(channels, dtype=teacher_dtype or dtype, seed=2, **common),
    }
    if weighted:
        accumulation = torch.promote_types(dtype, torch.float32)
        shapes = [(1, channels)] * len(sizes) if over == "locations" else sizes
        weights = random_masks(sizes=shapes, batch=batch, device=device, dtype=accumulation)
        given["weight"] = [w[:, 0] for w in weights] if over == "locations" else weights
    return given
