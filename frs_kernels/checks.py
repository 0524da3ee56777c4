"""Checks of the public functions' arguments: every message names the argument, the level and both shapes."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .contract import DTYPES, NORMALIZERS, Normalizer, Scalar
from .inputs import KLInputs, LossInputs
from .levels import Levels
from .torch_private import records_derivatives

T = TypeVar("T", Scalar, Normalizer)
Shapes = dict[str, list[torch.Size]]  # of every list of tensors that is given, by its name

_MASK_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_RESIZE_HINT = "pass resize=True to FeatureAdapter or resize them first"
_SAME_HINT = "both are logits of the same distributions"
_CLASSES_HINT = "the head term needs the same classes, anchors and sizes; leave student_logits out otherwise"


def as_levels(name: str, value: Levels | None) -> list[Tensor]:
    """One tensor or a sequence as a list of levels [B, C, H, W] or [B, C, L]; None is an empty list."""
    levels = as_tensors(name, value)
    for level, tensor in enumerate(levels):
        if tensor.dim() not in (3, 4):
            raise ValueError(
                f"level {level}: {name} must be [B, C, H, W] or [B, C, L], got {list(tensor.shape)}"
            )
    return levels


def as_masks(name: str, value: Levels | None) -> list[Tensor]:
    """One tensor or a sequence as a list of masks, which may be of bool or an integer dtype too."""
    return as_tensors(name, value, dtypes=(*DTYPES, *_MASK_DTYPES))


def as_tensors(name: str, value: Levels | None, dtypes: tuple[torch.dtype, ...] = DTYPES) -> list[Tensor]:
    """One tensor or a sequence as a list of tensors of any rank; None is an empty list."""
    if value is None:
        return []
    levels = [value] if isinstance(value, Tensor) else value
    # Asking the abstract class, and running a generator, takes longer than a level's other checks.
    if not isinstance(levels, (list, Sequence)) or not all([isinstance(level, Tensor) for level in levels]):
        raise TypeError(f"{name} must be a tensor or a sequence of tensors, got {type(value).__name__}")
    if len(levels) == 0:
        raise ValueError(f"{name} is an empty sequence: pass at least one level")
    for level, tensor in enumerate(levels):
        if tensor.dtype not in dtypes:
            raise TypeError(f"level {level}: {name} has dtype {tensor.dtype}, expected one of {dtypes}")
    return list(levels)


def check(inputs: LossInputs) -> LossInputs:
    """The inputs themselves. Raises ValueError where they do not fit together."""
    named = {
        "student_feats": inputs.student_feats,
        "teacher_feats": inputs.teacher_feats,
        "student_logits": inputs.student_logits,
        "teacher_logits": inputs.teacher_logits,
        "masks": inputs.masks,
        "channel_weights": inputs.channel_weights,
    }
    present = {name: levels for name, levels in named.items() if levels}
    shapes = {name: [tensor.shape for tensor in levels] for name, levels in present.items()}
    _check_level_counts(shapes)
    _check_devices(present)
    _check_same_shape("student_feats", "teacher_feats", shapes, _RESIZE_HINT)
    _check_same_shape("student_logits", "teacher_logits", shapes, _CLASSES_HINT)
    _check_locations(shapes)
    _check_channel_weights(shapes)
    _check_scalars(inputs)
    if inputs.per_image:
        _check_one_batch(shapes)
    if torch.is_grad_enabled():
        _check_gradients(
            present,
            constants=("masks", "channel_weights"),
            pairs=(("student_feats", "teacher_feats"), ("student_logits", "teacher_logits")),
        )
    return inputs


def check_kl(inputs: KLInputs) -> KLInputs:
    """The inputs themselves. Raises ValueError or TypeError where they do not fit together."""
    named = {"student": inputs.student, "teacher": inputs.teacher, "weight": inputs.weights}
    present = {name: levels for name, levels in named.items() if levels}
    shapes = {name: [tensor.shape for tensor in levels] for name, levels in present.items()}
    _check_level_counts(shapes)
    _check_devices(present)
    _check_same_shape("student", "teacher", shapes, _SAME_HINT)
    _check_distributions(inputs, shapes)
    _check_temperature(inputs.temperature)
    _check_normalizer(inputs.normalizer)
    one_scalar("scale", inputs.scale)
    if inputs.per_image:
        _check_one_batch(shapes)
    if torch.is_grad_enabled():
        _check_gradients(present, constants=("weight",), pairs=(("student", "teacher"),))
    return inputs


def _check_distributions(inputs: KLInputs, shapes: Shapes) -> None:
    """What the softmax runs over, and one weight for each location or channel."""
    if inputs.over not in ("channels", "locations"):
        raise ValueError(f"over {inputs.over!r} is none of ('channels', 'locations')")
    if not isinstance(inputs.groups, int) or inputs.groups < 1:
        raise ValueError(f"groups must be an integer >= 1, got {inputs.groups!r}")
    over_locations = inputs.over == "locations"
    if over_locations and inputs.groups != 1:
        raise ValueError(f"groups divides channels: it goes with over='channels' only, got {inputs.groups}")
    for level, shape in enumerate(shapes["student"]):
        if shape[1] % inputs.groups != 0:
            raise ValueError(
                f"level {level}: the {shape[1]} channels of student {list(shape)} are no multiple of "
                f"groups={inputs.groups}"
            )
    for level, (shape, weight) in enumerate(zip(shapes["student"], shapes.get("weight", []), strict=False)):
        fits = weight == shape[:2] if over_locations else _same_locations(shape, weight, is_mask=True)
        if not fits:
            expected = "[B, C], one per channel" if over_locations else "[B, H, W], one per location"
            raise ValueError(
                f"level {level}: weight {list(weight)} must be {expected} of student {list(shape)}"
            )


def _check_temperature(temperature: float) -> None:
    if not isinstance(temperature, (int, float)):
        raise TypeError(f"temperature must be a number, got {type(temperature).__name__}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be > 0 and finite, got {temperature}")


def _check_level_counts(shapes: Shapes) -> None:
    (first, levels), *others = shapes.items()
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


def _check_same_shape(student_name: str, teacher_name: str, shapes: Shapes, hint: str) -> None:
    if student_name not in shapes:
        return
    if teacher_name not in shapes:
        raise ValueError(f"{student_name} is given without {teacher_name}")
    pairs = zip(shapes[student_name], shapes[teacher_name], strict=True)
    for level, (student, teacher) in enumerate(pairs):
        if student != teacher:
            raise ValueError(
                f"level {level}: {student_name} {list(student)} and {teacher_name} "
                f"{list(teacher)} differ; {hint}"
            )


def _check_locations(shapes: Shapes) -> None:
    """Batch and locations agree within a level; a mask may have flat locations, and a channel of 1."""
    first, *_ = [name for name in ("student_feats", "teacher_logits", "student_logits") if name in shapes]
    for name in ("teacher_logits", "masks"):
        if name == first or name not in shapes:
            continue
        for level, (shape, other) in enumerate(zip(shapes[first], shapes[name], strict=True)):
            if _same_locations(shape, other, is_mask=name == "masks"):
                continue
            raise ValueError(
                f"level {level}: {first} {list(shape)} and {name} {list(other)} "
                "do not agree in batch and locations"
            )


def _same_locations(shape: torch.Size, other: torch.Size, is_mask: bool) -> bool:
    """Whether ``other``, of a mask or with channels, has the batch and the locations of ``shape``."""
    if len(other) == 0 or other[0] != shape[0]:
        return False
    expected = shape[2:]
    actual = other[1:] if is_mask else other[2:]
    if actual == expected:
        return True
    if is_mask and len(actual) > 1 and actual[0] == 1:
        actual = actual[1:]
    one_is_flat = len(actual) == 1 or len(expected) == 1
    return actual == expected or (one_is_flat and actual.numel() == expected.numel())


def _check_channel_weights(shapes: Shapes) -> None:
    for level, channel_weights in enumerate(shapes.get("channel_weights", [])):
        expected = shapes["student_feats"][level][:2]
        if channel_weights != expected:
            raise ValueError(
                f"level {level}: channel_weights {list(channel_weights)} must be [B, C] = {list(expected)}"
            )


def _check_one_batch(shapes: Shapes) -> None:
    (name, levels), *_ = shapes.items()
    batches = [shape[0] for shape in levels]
    if len(set(batches)) > 1:
        raise ValueError(f"reduction='none' needs as many images in every level, {name} has {batches}")


def _check_gradients(
    present: dict[str, list[Tensor]], constants: tuple[str, ...], pairs: tuple[tuple[str, str], ...]
) -> None:
    """Tensors that are constants in these losses must not look as if they received a gradient."""
    for name in constants:
        for level, tensor in enumerate(present.get(name, [])):
            if records_derivatives(tensor):
                raise ValueError(
                    f"level {level}: {name} requires a gradient, which these losses do not compute: "
                    "detach it, or write the part of the loss that needs it in PyTorch"
                )
    for student, teacher in pairs:
        if student not in present or any(map(records_derivatives, present[student])):
            continue
        if any(map(records_derivatives, present[teacher])):
            raise ValueError(
                f"{teacher} requires a gradient and {student} does not: the student comes first, "
                "are the two swapped? Otherwise run the teacher under torch.no_grad()"
            )


def _check_scalars(inputs: LossInputs) -> None:
    _check_normalizer(inputs.normalizer)
    one_scalar("feat_weight", inputs.feat_scale)
    one_scalar("head_weight", inputs.head_scale)
    if not inputs.beta >= 0:
        raise ValueError(f"beta must be >= 0, got {inputs.beta}")


def check_reduction(reduction: str) -> None:
    if reduction not in ("sum", "mean", "none"):
        raise ValueError(f"reduction {reduction!r} is none of ('sum', 'mean', 'none')")


def _check_normalizer(normalizer: Normalizer) -> None:
    names = NORMALIZERS[:-1]
    if isinstance(normalizer, str) and normalizer not in names:
        raise ValueError(f"normalizer {normalizer!r} is none of {names}, a number or a 0-d tensor")
    one_scalar("normalizer", normalizer)


def one_scalar(name: str, value: T | Sequence[T], hint: str = "") -> T:
    """The value itself, which must be a number, a 0-d tensor that requires no gradient, or a name."""
    if isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be one value, got a {type(value).__name__}{hint}")
    if isinstance(value, Tensor):
        if value.dim() != 0:
            raise ValueError(f"{name} must be a number or a 0-d tensor, got a tensor {list(value.shape)}")
        if torch.is_grad_enabled() and records_derivatives(value):
            raise ValueError(
                f"{name} requires a gradient, which these losses do not compute: "
                "detach it, or leave it out and multiply the loss by it"
            )
    return value  # pyright: ignore[reportReturnType]  # every sequence has been refused
