"""The three operators: checks, allocation and launches. Their schemas stand in frs_kernels/contract.py."""

import contextlib
import struct

import torch
from torch import Tensor

from frs_kernels.backends.triton import plan
from frs_kernels.backends.triton.geometry import geometry
from frs_kernels.backends.triton.launch import launch
from frs_kernels.backends.triton.passes import LossCall, Part, launch_mask
from frs_kernels.backends.triton.plan import DTYPES
from frs_kernels.backends.triton.scale import ADDRESS, COLUMNS, PROGRAMS, SPAN, scale_kernel
from frs_kernels.contract import accumulation_dtype
from frs_kernels.layouts import grad_like


def mask(teacher_logits: list[Tensor]) -> list[Tensor]:
    acc = accumulation_dtype(*teacher_logits)
    maps = [t.new_empty((t.shape[0], *t.shape[2:]), dtype=acc) for t in teacher_logits]
    with _device(teacher_logits[0]):
        launch_mask(_part([], teacher_logits, []), [m.data_ptr() for m in maps], acc)
    return maps


def loss(
    student_feats, teacher_feats, student_logits, teacher_logits, weights, channel_weights,
    normalizer, divisor, divisor_tensor,
    feat_scale, feat_scale_tensor, head_scale, head_scale_tensor,
    beta, feat_grad, head_grad,
):  # fmt: skip
    _check(student_feats, teacher_feats, student_logits, teacher_logits, weights, channel_weights)
    some = (student_feats or student_logits)[0]
    feat_grads = [grad_like(t) for t in student_feats] if feat_grad else []
    logit_grads = [grad_like(t) for t in student_logits] if head_grad else []
    call = LossCall(
        feats=_part(student_feats, teacher_feats, feat_grads) if student_feats else None,
        logits=_part(student_logits, teacher_logits, logit_grads) if student_logits or not weights else None,
        weights=weights,
        channel_weights=channel_weights,
        acc=accumulation_dtype(some),
        normalizer=normalizer,
        numbers=(
            *_split(divisor), divisor_tensor,
            *_split(feat_scale), feat_scale_tensor,
            *_split(head_scale), head_scale_tensor,
        ),
        beta=beta,
    )  # fmt: skip
    with _device(some):
        losses, pending = call.two_phases() if weights or feat_grad or head_grad else call.single_pass()
    return losses, pending, feat_grads, logit_grads


def scale_(grads: list[Tensor], factor: Tensor, pending: Tensor) -> None:
    torch._check(pending.numel() == len(grads), lambda: f"{len(grads)} grads, {pending.numel()} pending")
    if not grads:
        return
    with _device(grads[0]):
        for dtype in dict.fromkeys(g.dtype for g in grads):
            _scale([(i, g) for i, g in enumerate(grads) if g.dtype == dtype], factor, pending.contiguous())


def _scale(grads: list[tuple[int, Tensor]], factor: Tensor, pending: Tensor) -> None:
    """One launch for all gradients of one dtype, each with its entry of ``pending``."""
    entries, tensors = zip(*grads, strict=True)
    planned = plan.flat_launch(tuple(g.numel() for g in tensors), SPAN.value, entries)
    if planned.programs == 0:
        return
    addresses = [g.data_ptr() for g in tensors]
    table = plan.with_addresses(planned.table, {ADDRESS.value: addresses}, COLUMNS.value)
    aligned = all(address % 16 == 0 for address in addresses)
    dtypes = DTYPES[tensors[0].dtype], DTYPES[factor.dtype]
    launch(
        scale_kernel, min(planned.programs, PROGRAMS), factor.device,
        (table, factor, pending, planned.programs),
        (len(tensors), pending.numel(), aligned, *dtypes),
    )  # fmt: skip


def _part(students: list[Tensor], teachers: list[Tensor], grads: list[Tensor]) -> Part:
    return Part(geometry(students, teachers, bool(grads)), students, teachers, grads)


def _check(student_feats, teacher_feats, student_logits, teacher_logits, weights, channel_weights):
    """Lists that do not fit together would make a kernel read wrong memory."""
    levels = len(student_feats or student_logits)
    named = {
        "student_feats": student_feats, "teacher_feats": teacher_feats, "student_logits": student_logits,
        "teacher_logits": teacher_logits, "weights": weights, "channel_weights": channel_weights,
    }  # fmt: skip
    for name, tensors in named.items():
        if tensors and len(tensors) != levels:
            raise RuntimeError(f"{name} has {len(tensors)} levels, the student {levels}")
    for name, students, teachers in (
        ("feats", student_feats, teacher_feats),
        ("logits", student_logits, teacher_logits),
    ):
        for level, (s, t) in enumerate(zip(students, teachers, strict=bool(students))):
            if s.shape != t.shape:
                raise RuntimeError(
                    f"level {level}: student_{name} {list(s.shape)} and teacher_{name} {list(t.shape)} differ"
                )
    for level, weight in enumerate(weights):
        some = (student_feats or student_logits)[level]
        if weight.numel() != some.shape[0] * some.shape[2:].numel():
            raise RuntimeError(f"level {level}: weights {list(weight.shape)} do not fit {list(some.shape)}")


@contextlib.contextmanager
def _device(tensor: Tensor):
    """Triton launches on the current device."""
    if tensor.device.type == "cpu":
        yield
    else:
        with torch.get_device_module(tensor.device).device(tensor.device):
            yield


def _split(value: float) -> tuple[float, float]:
    """A double as the sum of two floats: Triton passes Python floats in float32."""
    try:
        high = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return value, 0.0
    return high, (value - high if abs(high) != float("inf") else 0.0)
