"""The arguments of frs_loss in the tests of several files."""

import torch
from cases import SIZES, tensors

WRT = ("student_feats", "student_logits")  # gradients are taken with respect to these


def arguments(
    feats=8,
    logits=12,
    *,
    sizes=SIZES,
    dtype=torch.float32,
    teacher_dtype=None,
    layout="nchw",
    device="cpu",
    batch=2,
):
    common = {"sizes": sizes, "layout": layout, "device": device, "batch": batch}
    return {
        "student_feats": tensors(feats, dtype=dtype, seed=1, **common),
        "teacher_feats": tensors(feats, dtype=teacher_dtype or dtype, seed=2, **common),
        "student_logits": tensors(logits, dtype=dtype, seed=4, spread=3, **common),
        "teacher_logits": tensors(logits, dtype=teacher_dtype or dtype, seed=3, spread=3, **common),
    }
