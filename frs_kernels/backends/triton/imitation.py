"""The imitation term of one tile: sum_c S c (x - y)^2, and its gradient 2 S c (x - y)."""

import triton
import triton.language as tl

from .level_table import (
    CHANNEL_WEIGHT,
    CHANNELS,
    FLAG_ALIGNED,
    FLAGS,
    STUDENT,
    TEACHER,
    table_entry,
)
from .tiles import block_pointers, grad_view, input_view, level_shape, load_block


@triton.jit
def load_channel_weight(
    table, level, image, channel, channels, config: tl.constexpr, VECTORIZED: tl.constexpr
):
    """c [BLOCK_C, 1] of one image; 0 from ``channels`` on."""
    BLOCK_C: tl.constexpr = config.BLOCK_C if VECTORIZED else config.UNALIGNED_BLOCK_C
    pointer = table_entry(table, CHANNEL_WEIGHT, level, config.LEVELS).to(tl.pointer_type(config.ACC))
    pointer += image * table_entry(table, CHANNELS, level, config.LEVELS)
    offs_c = channel + tl.arange(0, BLOCK_C)
    return tl.load(pointer + offs_c, mask=offs_c < channels, other=0.0)[:, None]


@triton.jit
def squared_error(
    table, level, image, first, last, location, grad_factor, nonzero_z,
    config: tl.constexpr, VECTORIZED: tl.constexpr,
):  # fmt: skip
    """sum_c c (x - y)^2 [BLOCK_L] over channels [first, last).

    Stores the gradient: d/dx = 2 ``grad_factor`` c (x - y). ``grad_factor`` [BLOCK_L] is S * scale / Z_l, or
    S where that factor is pending. Where ``nonzero_z`` is false, nothing is read: sum and gradient are 0.
    """
    BLOCK_C: tl.constexpr = config.BLOCK_C if VECTORIZED else config.UNALIGNED_BLOCK_C
    flags = table_entry(table, FLAGS, level, config.LEVELS)
    channels, locations = level_shape(table, level, config, VECTORIZED)
    student = input_view(table, STUDENT, config.STUDENT_DTYPE, level, image, flags, config, VECTORIZED)
    teacher = input_view(table, TEACHER, config.TEACHER_DTYPE, level, image, flags, config, VECTORIZED)
    if config.HAS_GRAD:
        grad = grad_view(table, level, image, flags, config, VECTORIZED)
    offs_l = location + tl.arange(0, config.BLOCK_L)
    inside_l = (offs_l < locations)[None, :]
    readable = (offs_l < tl.where(nonzero_z, locations, 0))[None, :]
    total = tl.full([BLOCK_C, config.BLOCK_L], 0.0, config.ACC)
    last = tl.minimum(last, channels)
    for c in tl.range(first, last, BLOCK_C, num_stages=config.STAGES if VECTORIZED else 1):
        x = load_block(student, c, channels, location, readable, 0.0, config, VECTORIZED).to(config.ACC)
        y = load_block(teacher, c, channels, location, readable, 0.0, config, VECTORIZED).to(config.ACC)
        difference = x - y
        half_slope = difference  # half the derivative of c (x - y)^2
        if config.HAS_CHANNEL_WEIGHT:
            readable_channels = tl.where(nonzero_z, channels, 0)
            half_slope *= load_channel_weight(table, level, image, c, readable_channels, config, VECTORIZED)
        total += half_slope * difference
        if config.HAS_GRAD:
            gradient = (2.0 * grad_factor[None, :] * half_slope).to(config.STUDENT_DTYPE)
            inside = (c + tl.arange(0, BLOCK_C) < channels)[:, None] & inside_l
            pointers = block_pointers(grad, c, location, config, VECTORIZED)
            tl.store(pointers, gradient, mask=inside, eviction_policy="evict_first")
    return tl.sum(total, axis=0)


@triton.jit
def imitation_tile(
    table, level, image, first, last, location, grad_factor, nonzero_z, config: tl.constexpr
):  # fmt: skip
    """:func:`squared_error`, with 16-byte accesses where the level is aligned."""
    if config.ALL_ALIGNED:
        error = squared_error(
            table, level, image, first, last, location, grad_factor, nonzero_z, config, True
        )
    elif (table_entry(table, FLAGS, level, config.LEVELS) & FLAG_ALIGNED) != 0:
        error = squared_error(
            table, level, image, first, last, location, grad_factor, nonzero_z, config, True
        )
    else:
        error = squared_error(
            table, level, image, first, last, location, grad_factor, nonzero_z, config, False
        )
    return error
