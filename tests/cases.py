"""Inputs shared by the tests of every backend, and the comparison with the float64 reference."""

import os
from dataclasses import dataclass

import torch
from tolerances import assert_as_accurate
from torch import Tensor

import frs_kernels as frs

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # only the Triton kernels run, on the CPU
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LAYOUTS = ("nchw", "channels_last", "flat", "split", "rows", "odd")
NORMALIZERS = ("mask", "mask_channels", "batch", "numel", "mask_all_levels", 7.5)
SIZES = ((9, 14), (5, 7), (3, 4), (1, 1))
# Long enough for every vector path, tail and split of the work. Shorter in the interpreter, where each tile
# takes milliseconds, but of several tiles too.
LONG_SIZES = ((28, 41) if INTERPRETED else (40, 67), (13, 21))


@dataclass(frozen=True)
class Target:
    """A backend on a device."""

    backend: str
    device: str

    def __str__(self):
        return f"{self.backend}-{self.device}"


def tensors(
    channels, *, sizes=SIZES, batch=2, dtype=torch.float32, layout="nchw", device="cpu", seed=0, spread=1.0
) -> list[Tensor]:
    """Normal values, [batch, channels, H, W] (or [batch, channels, L]) per level, in a memory layout."""
    generator = torch.Generator().manual_seed(seed)
    values = [
        (spread * torch.randn(batch, channels, h, w, generator=generator, dtype=torch.float64)).to(
            device, dtype
        )
        for h, w in sizes
    ]
    return in_layout(values, layout)


def in_layout(values: list[Tensor], layout: str) -> list[Tensor]:
    """The same values in another memory layout."""
    if layout == "nchw":
        return values
    if layout == "channels_last":
        return [v.contiguous(memory_format=torch.channels_last) for v in values]
    if layout == "flat":
        return [v.flatten(2) for v in values]
    if layout == "odd":  # W-major: no single location stride, has to be copied
        return [v.transpose(2, 3).contiguous().transpose(2, 3) for v in values]
    lengths = [v.shape[2:].numel() for v in values]
    flat = torch.cat([v.flatten(2) for v in values], dim=2)
    if layout == "rows":  # views of one [B, sum L, C]
        flat = flat.movedim(1, 2).contiguous().movedim(2, 1)
    return [
        part.unflatten(2, v.shape[2:]) if v.numel() else v
        for part, v in zip(flat.split(lengths, dim=2), values, strict=True)
    ]


def random_masks(*, sizes=SIZES, batch=2, device="cpu", seed=5, dtype=torch.float32) -> list[Tensor]:
    """Masks with values in [0, 1), a fifth of them zero: [batch, H, W] per level."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.rand(batch, h, w, generator=generator, dtype=torch.float64) for h, w in sizes]
    return [(v * (v > 0.2)).to(device, dtype) for v in values]


def gradcheck(function, leaves, **options) -> None:
    """Compares the gradients with finite differences; in the interpreter along one random direction only."""
    assert torch.autograd.gradcheck(function, leaves, fast_mode=INTERPRETED, **options)


def term(
    names,
    channels=12,
    *,
    sizes=SIZES,
    batch=2,
    dtype=torch.float32,
    teacher_dtype=None,
    device="cpu",
    **options,
) -> dict:
    """The arguments of one term: student and teacher tensors under ``names``, and a mask per level."""
    student, teacher = names
    options |= {"sizes": sizes, "batch": batch, "device": device}
    return {
        student: tensors(channels, dtype=dtype, seed=1, **options),
        teacher: tensors(channels, dtype=teacher_dtype or dtype, seed=2, **options),
        "masks": random_masks(
            sizes=sizes, batch=batch, device=device, dtype=torch.promote_types(dtype, torch.float32)
        ),
    }


def evaluate(function, arguments: dict, wrt: tuple[str, ...], upstream=1.0, **options):
    """Results of ``function`` and the gradients of their last one in the levels of ``wrt``.

    The results of an FRSLossOutput are its fields, from the levels to the total. ``upstream`` is the gradient
    of the last result: a number, or one per image.
    """
    leaves = {name: _clone(value, name in wrt) for name, value in arguments.items()}
    result = function(**leaves, **options)
    results = fields(result) if isinstance(result, frs.FRSLossOutput) else (result,)
    grads = []
    if wrt:
        (results[-1] * upstream).sum().backward()
        grads = [leaf.grad for name in wrt for leaf in _list(leaves[name])]
    return results, grads


def fields(loss: frs.FRSLossOutput) -> tuple[Tensor, ...]:
    return loss.feature_levels, loss.head_levels, loss.feature, loss.head, loss.total


def compare(function, target: Target, arguments: dict, wrt: tuple[str, ...], upstream=1.0, **options):
    """Asserts that a backend's results and gradients are as accurate as eager's in the same dtypes."""
    actual, actual_grads = evaluate(function, arguments, wrt, upstream, backend=target.backend, **options)
    eager, eager_grads = evaluate(function, arguments, wrt, upstream, backend="eager", **options)
    doubled = {name: _double(value) for name, value in arguments.items()}
    doubled_options = {name: _double(value) for name, value in options.items()}
    exact, exact_grads = evaluate(function, doubled, wrt, upstream, backend="eager", **doubled_options)
    for index, results in enumerate(zip(actual, eager, exact, strict=True)):
        assert_as_accurate(*results, what=f"result {index}")
    operands = operand_magnitudes(doubled, wrt, exact_grads, options)
    for index, grads in enumerate(zip(actual_grads, eager_grads, exact_grads, strict=True)):
        assert_as_accurate(*grads, what=f"gradient {index}", operands=operands[index])
    return actual, actual_grads


def operand_magnitudes(arguments: dict, wrt: tuple[str, ...], grads: list[Tensor], options: dict) -> list:
    """For each gradient that is a multiple of p - q, two probabilities, the same multiple of p + q; else 0.

    The gradient in a student's logit is S / Z (p - q), hence S / Z (p + q). The focal form has a power of the
    difference up to 1 + beta, which multiplies its relative error by as much.
    """
    beta = options.get("beta", 0.0)
    magnitudes = []
    for name in wrt:
        for level, student in enumerate(_list(arguments[name])):
            magnitude = 0.0
            if name in ("student_logits", "student"):
                teacher = _list(arguments[name.replace("student", "teacher")])[level]
                p, q = (softmax(x, options) if name == "student" else x.sigmoid() for x in (student, teacher))
                multiple = (grads[len(magnitudes)] / (p - q)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
                magnitude = ((1 + beta) * multiple.abs() * (p + q)).nan_to_num(nan=0.0)
            magnitudes.append(magnitude)
    return magnitudes


def softmax(logits: Tensor, options: dict) -> Tensor:
    """The probabilities that weighted_kl compares under these options."""
    logits = logits / options.get("temperature", 1.0)
    if options.get("over") == "locations":
        return logits.flatten(2).softmax(dim=2).reshape(logits.shape)
    groups = options.get("groups", 1)
    return logits.unflatten(1, (groups, logits.shape[1] // groups)).softmax(dim=2).flatten(1, 2)


def _list(value) -> list:
    return [value] if isinstance(value, Tensor) else list(value)


def _clone(value, wants_grad: bool):
    """Leaves with the values, dtypes and strides of the originals."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            return value
        copy = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=value.device)
        return copy.copy_(value.detach()).requires_grad_(wants_grad)
    if isinstance(value, (list, tuple)):
        return [_clone(v, wants_grad) for v in value]
    return value


def _double(value):
    if isinstance(value, Tensor):
        return value.detach().double()
    if isinstance(value, (list, tuple)):
        return [_double(v) for v in value]
    return value
