"""Eager formulations of weighted_kl's losses: those that are published, and the leanest.

Each is a function of student and teacher (lists over levels), of the list of weights, which is empty where
there are none, and of ``Case.kl_options``. What is published divides by constants too, which are left out.
"""

import torch
import torch.nn.functional as F


def ld(student, teacher, weights, *, over, groups, temperature):
    """Localization distillation as mmdetection's LDHead computes it: 4 edges share a location's weight.

    mmdetection first picks the locations of objects. Here every location has a weight, as with an FRS mask.

    Source: Zheng et al., "Localization Distillation for Dense Object Detection" (CVPR 2022).
    """
    total = 0.0
    for s, t, w in zip(student, teacher, weights, strict=True):
        s, t = (_as_rows(x, x.shape[1] // groups) for x in (s, t))
        target = F.softmax(t / temperature, dim=1)
        divergence = F.kl_div(F.log_softmax(s / temperature, dim=1), target, reduction="none").sum(dim=1)
        weight = w.reshape(-1)[:, None].expand(-1, groups).reshape(-1)
        total = total + (divergence * temperature**2 * weight).sum() / w.sum()
    return total


def kd(student, teacher, weights, *, over, groups, temperature):
    """Hinton's distillation of the class logits of every anchor, as torchdistill computes it.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015).
    """
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        rows, target_rows = (_as_rows(x, x.shape[1] // groups) for x in (s, t))
        log_q = torch.log_softmax(rows / temperature, dim=1)
        p = torch.softmax(target_rows / temperature, dim=1)
        total = total + temperature**2 * groups * F.kl_div(log_q, p, reduction="batchmean")
    return total


def cwd(student, teacher, weights, *, over, groups, temperature):
    """Channel-wise distillation of features, as mmrazor computes it.

    Source: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction" (ICCV 2021).
    """
    total = 0.0
    for x, y in zip(student, teacher, strict=True):
        channels = x.shape[0] * x.shape[1]
        x, y = (_without_half(z).reshape(channels, -1) / temperature for z in (x, y))
        p = F.softmax(y, dim=1)
        difference = p * F.log_softmax(y, dim=1) - p * F.log_softmax(x, dim=1)
        total = total + temperature**2 * difference.sum() / channels
    return total


OFFICIAL = {"ld": ld, "kd": kd, "cwd": cwd}


def best(student, teacher, weights, *, over, groups, temperature):
    """The leanest formulation: logarithms on both sides, no copy to another layout, bins summed first.

    Logarithms of bfloat16 logits over channels are bfloat16, all others float32: over locations, bfloat16 is
    too coarse for probabilities of thousands of bins, and gradients of float16 overflow.
    """
    total = 0.0
    for level, (s, t) in enumerate(zip(student, teacher, strict=True)):
        count = len(s) * (s.shape[1] if over == "locations" else s.shape[2:].numel())
        is_nhwc = s.is_contiguous(memory_format=torch.channels_last)
        is_nhwc = is_nhwc and (s.is_cuda or s.dtype != torch.bfloat16)  # on a CPU, slow on short rows: copied
        s, t = (x.permute(0, 2, 3, 1).flatten(1, 2) if is_nhwc else x.flatten(2) for x in (s, t))
        channels = 2 if is_nhwc else 1
        if over == "channels":
            s, t = (x.unflatten(channels, (groups, -1)) for x in (s, t))
        bins = channels + 1 if over == "channels" else 3 - channels
        dtype = torch.bfloat16 if s.dtype == torch.bfloat16 and over == "channels" else torch.float32
        log_q, log_p = (F.log_softmax(x / temperature, bins, dtype=dtype) for x in (s, t))
        divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True)
        if weights:
            w = weights[level].flatten(1)
            mean = (w * divergence.sum(dim=(channels, bins), dtype=torch.float32)).sum() / w.sum()
        else:
            mean = divergence.sum(dtype=torch.float32) / count
        total = total + temperature**2 * mean
    return total


def _as_rows(x, length: int):
    """[B, C, H, W] as [B H W C / length, length], one distribution per row."""
    return _without_half(x).permute(0, 2, 3, 1).reshape(-1, length)


def _without_half(x):
    """Half precision as float32, which autocast makes of the arguments of a softmax."""
    return x.float() if x.dtype.itemsize == 2 else x
