"""The operator `scale_` itself, for a batch and image by image: every element once, and nothing beside it."""

import math

import pytest
import torch
from cases import DTYPES, INTERPRETED
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from frs_kernels import dispatch

# The interpreter's casts to bfloat16 truncate, so that its bits are others.
EXACT_DTYPES = [dtype for dtype in DTYPES if not (INTERPRETED and dtype == torch.bfloat16)]
BITS = {torch.float64: torch.int64, torch.float32: torch.int32}  # 16 bits for the other dtypes
SIGNALING_NAN = {
    torch.float64: 0x7FF0_0000_0000_0001, torch.float32: 0x7F80_0001,
    torch.bfloat16: 0x7F81, torch.float16: 0x7C01,
}  # fmt: skip


def bits(values: Tensor) -> Tensor:
    return values.view(BITS.get(values.dtype, torch.int16))


def memory_with(shape, offset: int, dtype, seed: int, device) -> tuple[Tensor, Tensor]:
    """Random memory, and a dense gradient in it that begins ``offset`` elements after an aligned address."""
    size = math.prod(shape)
    generator = torch.Generator().manual_seed(seed)
    memory = torch.randn(size + 32, generator=generator, dtype=torch.float64).to(device, dtype)
    return memory, memory[offset : offset + size].view(shape)


def check(target, shapes, offsets, dtype, grad_output: Tensor, pending: Tensor) -> None:
    """``grad_output`` is [] or [B]. Where a factor is 1, not even a signaling NaN changes."""
    cases = enumerate(zip(shapes, offsets, strict=True))
    values = [memory_with(*case, dtype, seed, target.device) for seed, case in cases]
    expected = []
    for i, ((memory, grad), offset) in enumerate(zip(values, offsets, strict=True)):
        factors = (grad_output * pending[i]).expand(grad.shape[0])
        for image, factor in enumerate(factors.tolist()):
            if factor == 1:
                bits(grad)[image] = SIGNALING_NAN[dtype]
        wanted = memory.clone()
        view = wanted[offset : offset + grad.numel()].view(grad.shape)
        for image, factor in enumerate(factors):
            if factor != 1:
                view[image] = (view[image].to(factor.dtype) * factor).to(dtype)
        expected.append(wanted)
    operators = dispatch.load(target.backend).namespace()
    operators.scale_([grad for _, grad in values], grad_output, pending)
    for (memory, _), wanted in zip(values, expected, strict=True):
        assert torch.equal(bits(memory), bits(wanted))


factors = st.sampled_from((1.0, 0.5, -3.0, 0.0, 1.1))


@given(
    dtype=st.sampled_from(EXACT_DTYPES), batch=st.integers(0, 5), per_image=st.booleans(), data=st.data(),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40)), min_size=1, max_size=6),
    offset=st.integers(0, 8),
)  # fmt: skip
def test_every_image_gets_its_factor(target, dtype, batch, per_image, data, sizes, offset):
    """Images that begin anywhere: 16 bytes are a multiple of few of these sizes."""
    accumulation = torch.promote_types(dtype, torch.float32)
    numbers = st.lists(factors, min_size=batch, max_size=batch) if per_image else factors
    numbers = data.draw(numbers)
    pending = data.draw(st.lists(factors, min_size=len(sizes), max_size=len(sizes)))
    options = {"dtype": accumulation, "device": target.device}
    shapes, offsets = [(batch, *size) for size in sizes], [offset + i % 3 for i in range(len(sizes))]
    grad_output, pending = torch.tensor(numbers, **options), torch.tensor(pending, **options)
    check(target, shapes, offsets, dtype, grad_output, pending)


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("dtype", EXACT_DTYPES, ids=str)
def test_large_images_and_more_gradients_than_a_launch_takes(target, dtype):
    """More rounds than one through the images and through an image."""
    options = {"dtype": torch.promote_types(dtype, torch.float32), "device": target.device}
    grad_output, one = torch.tensor([2.0, 1.0, 0.25], **options), torch.ones(1, **options)
    check(target, [(3, 600, 1001)], [1], dtype, grad_output, one)
    check(target, [(3, 5, 7)] * 40, [0] * 40, dtype, grad_output, torch.linspace(0, 2, 40, **options))
    many = torch.linspace(-1, 1, 1300, **options)
    check(target, [(1300, 3, 5)], [0], dtype, many, one)
