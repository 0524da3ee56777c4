"""Checks of the public functions' arguments: every message names argument, level and both shapes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from frs_kernels.contract import DTYPES, NORMALIZERS
from frs_kernels.levels import Levels, Terms


def as_levels(name: str, value: Levels | None) -> list[Tensor]:
    """One tensor or a sequence of levels as a list of [B, C, H, W] or [B, C, L] tensors."""
    levels = as_maps(name, value)
    for level, tensor in enumerate(levels):
        if tensor.dim() not in (3, 4):
            raise ValueError(
                f"level {level}: {name} must be [B, C, H, W] or [B, C, L], got {list(tensor.shape)}"
            )
    return levels


def as_maps(name: str, value: Levels | None) -> list[Tensor]:
    """One tensor or a sequence of tensors as a list of floating-point tensors of any rank."""
    if value is None:
        return []
    levels = [value] if isinstance(value, Tensor) else value
    if not isinstance(levels, Sequence) or not all(isinstance(level, Tensor) for level in levels):
        raise TypeError(f"{name} must be a tensor or a sequence of tensors, got {type(value).__name__}")
    if len(levels) == 0:
        raise ValueError(f"{name} is an empty sequence: pass at least one level")
    for level, tensor in enumerate(levels):
        if tensor.dtype not in DTYPES:
            raise TypeError(f"level {level}: {name} has dtype {tensor.dtype}, expected one of {DTYPES}")
    return list(levels)


def check(terms: Terms) -> Terms:
    """Raises ValueError or TypeError where the arguments of one call do not fit together."""
    named = {
        "student_feats": terms.student_feats,
        "teacher_feats": terms.teacher_feats,
        "student_logits": terms.student_logits,
        "teacher_logits": terms.teacher_logits,
        "mask": terms.weights,
        "channel_weight": terms.channel_weights,
    }
    present = {name: levels for name, levels in named.items() if levels}
    _check_counts(present)
    _check_devices(present)
    _check_same_shape("student_feats", "teacher_feats", present, _RESIZE_HINT)
    _check_same_shape("student_logits", "teacher_logits", present, _CLASSES_HINT)
    _check_locations(present)
    _check_channel_weights(present)
    _check_scalars(terms)
    return terms


_RESIZE_HINT = "pass resize=True to FeatureAdapter or resize them first"
_CLASSES_HINT = "the head term needs the same classes, anchors and sizes; leave student_logits out otherwise"


def _check_counts(present: dict[str, list[Tensor]]) -> None:
    (first, levels), *others = present.items()
    for name, other in others:
        if len(other) != len(levels):
            raise ValueError(f"{first} has {len(levels)} levels, {name} has {len(other)}")


def _check_devices(present: dict[str, list[Tensor]]) -> None:
    (first, levels), *_ = present.items()
    device = levels[0].device
    for name, others in present.items():
        for level, tensor in enumerate(others):
            if tensor.device != device:
                raise ValueError(f"level {level}: {name} is on {tensor.device}, {first} on {device}")


def _check_same_shape(student: str, teacher: str, present: dict[str, list[Tensor]], hint: str) -> None:
    if student not in present:
        return
    if teacher not in present:
        raise ValueError(f"{student} is given without {teacher}")
    for level, (ours, theirs) in enumerate(zip(present[student], present[teacher], strict=True)):
        if ours.shape != theirs.shape:
            raise ValueError(
                f"level {level}: {student} {list(ours.shape)} and {teacher} {list(theirs.shape)} differ; "
                f"{hint}"
            )


def _check_locations(present: dict[str, list[Tensor]]) -> None:
    """Batch and locations agree within a level; a map is [B, H, W] or [B, H*W], or has a channel of 1."""
    first = next(name for name in ("student_feats", "teacher_logits", "student_logits") if name in present)
    for name in ("teacher_logits", "mask"):
        for level, (tensor, other) in enumerate(zip(present[first], present.get(name, []), strict=False)):
            if _same_locations(tensor, other, is_map=name == "mask"):
                continue
            raise ValueError(
                f"level {level}: {first} {list(tensor.shape)} and {name} {list(other.shape)} "
                "do not agree in batch and locations"
            )


def _same_locations(tensor: Tensor, other: Tensor, is_map: bool) -> bool:
    grid, spatial = tensor.shape[2:], other.shape[1:] if is_map else other.shape[2:]
    if is_map and len(spatial) > 1 and spatial[0] == 1 and spatial != grid:
        spatial = spatial[1:]
    if other.shape[0] != tensor.shape[0]:
        return False
    flat = len(spatial) == 1 or len(grid) == 1
    return spatial == grid or (flat and _count(spatial) == _count(grid))


def _count(sizes: Sequence[int]) -> int:
    count = 1
    for size in sizes:
        count = count * size
    return count


def _check_channel_weights(present: dict[str, list[Tensor]]) -> None:
    for level, channel_weight in enumerate(present.get("channel_weight", [])):
        expected = present["student_feats"][level].shape[:2]
        if channel_weight.shape != expected:
            raise ValueError(
                f"level {level}: channel_weight {list(channel_weight.shape)} must be [B, C] = "
                f"{list(expected)}"
            )


def _check_scalars(terms: Terms) -> None:
    if isinstance(terms.normalizer, str) and terms.normalizer not in NORMALIZERS[:-1]:
        raise ValueError(
            f"normalizer {terms.normalizer!r} is none of {NORMALIZERS[:-1]}, a number or a 0-d tensor"
        )
    check_scalar("normalizer", terms.normalizer)
    check_scalar("feat_weight or scale", terms.feat_scale)
    check_scalar("head_weight or scale", terms.head_scale)
    if not terms.beta >= 0:
        raise ValueError(f"beta must be >= 0, got {terms.beta}")


def check_scalar(name: str, value) -> None:
    """A number or a 0-d tensor that wants no gradient."""
    if not isinstance(value, Tensor):
        return
    if value.dim() != 0:
        raise ValueError(f"{name} must be a number or a 0-d tensor, got a tensor {list(value.shape)}")
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires a gradient, which these losses do not compute: "
            "detach it, or leave it out and multiply the loss by it"
        )
