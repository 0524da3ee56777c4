"""The mask pass: S = max_k sigmoid(T_k) = sigmoid(max_k T_k) of all levels, and partial sums of masks."""

import triton
import triton.language as tl

from .arithmetic import max_over_channels, sigmoid
from .level_table import (
    FLAG_ALIGNED,
    FLAGS,
    LOCATIONS,
    MASK,
    TEACHER,
    level_of_tile,
    table_entry,
)
from .tiles import block_pointers, input_view, level_shape, tile_origin

SUM_BLOCK = tl.constexpr(4096)  # elements that one program of mask_sums_kernel adds
# Columns of its table, after the first tile: a mask's address and its number of elements B * L.
SUM_ADDRESS, SUM_ELEMENTS, SUM_COLUMNS = (tl.constexpr(i) for i in (1, 2, 3))


@triton.jit
def max_logit(table, level, image, location, config: tl.constexpr, VECTORIZED: tl.constexpr):
    """max_k T_k [BLOCK_L], NaN where a T_k is NaN."""
    BLOCK_C: tl.constexpr = config.BLOCK_C if VECTORIZED else config.UNALIGNED_BLOCK_C
    flags = table_entry(table, FLAGS, level, config.LEVELS)
    channels, locations = level_shape(table, level, config, VECTORIZED)
    teacher = input_view(table, TEACHER, config.TEACHER_DTYPE, level, image, flags, config, VECTORIZED)
    inside_l = (location + tl.arange(0, config.BLOCK_L) < locations)[None, :]
    max_t = tl.full([BLOCK_C, config.BLOCK_L], float("-inf"), config.ACC)
    for c in tl.range(0, channels, BLOCK_C, num_stages=config.STAGES if VECTORIZED else 1):
        inside = (c + tl.arange(0, BLOCK_C) < channels)[:, None] & inside_l
        pointers = block_pointers(teacher, c, location, config, VECTORIZED)
        t = tl.load(pointers, mask=inside, other=float("-inf")).to(config.ACC)
        max_t = tl.maximum(max_t, t, propagate_nan=tl.PropagateNan.ALL)
    return max_over_channels(max_t)


@triton.jit
def max_logit_tile(table, level, image, location, config: tl.constexpr):
    """:func:`max_logit`, with 16-byte accesses where the level is aligned."""
    if config.ALL_ALIGNED:
        max_t = max_logit(table, level, image, location, config, True)
    elif (table_entry(table, FLAGS, level, config.LEVELS) & FLAG_ALIGNED) != 0:
        max_t = max_logit(table, level, image, location, config, True)
    else:
        max_t = max_logit(table, level, image, location, config, False)
    return max_t


@triton.jit(do_not_specialize=["mask_sums"])
def mask_kernel(
    table,  # level table: T [B, K, L] is read, S [B, L] is written
    mask_sums,  # [programs], sum of S of each tile; or None
    config: tl.constexpr,
):
    """One program computes S of BLOCK_L locations of one image from all its channels.

    The tiles run in reverse order: the last levels are small and unaligned, so their tiles are slow and would
    otherwise run alone at the end (tail effect).
    """
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    level = level_of_tile(table, tile, config.LEVELS)
    image, _, location = tile_origin(table, level, tile, None, config)
    max_t = max_logit_tile(table, level, image, location, config)
    locations = table_entry(table, LOCATIONS, level, config.LEVELS)
    offs_l = location + tl.arange(0, config.BLOCK_L)
    mask = tl.where(offs_l < locations, sigmoid(max_t), 0.0)
    pointer = table_entry(table, MASK, level, config.LEVELS).to(tl.pointer_type(config.ACC))
    pointer += image * locations
    tl.store(pointer + offs_l, mask, mask=offs_l < locations)
    if mask_sums is not None:
        tl.store(mask_sums + tile, tl.sum(mask, axis=0))


@triton.jit(do_not_specialize=["mask_sums"])
def mask_sums_kernel(
    table,  # per level: first tile, address and number of elements of S [B, L], which the caller gave
    mask_sums,  # [programs], sum of each tile
    LEVELS: tl.constexpr,
    ACC: tl.constexpr,
):
    """One program adds SUM_BLOCK elements of a mask."""
    tile = tl.program_id(0)
    level = level_of_tile(table, tile, LEVELS, SUM_COLUMNS)
    offs = (tile - table_entry(table, 0, level, LEVELS, SUM_COLUMNS)) * SUM_BLOCK + tl.arange(0, SUM_BLOCK)
    pointer = table_entry(table, SUM_ADDRESS, level, LEVELS, SUM_COLUMNS).to(tl.pointer_type(ACC))
    elements = table_entry(table, SUM_ELEMENTS, level, LEVELS, SUM_COLUMNS)
    mask = tl.load(pointer + offs, mask=offs < elements, other=0.0)
    tl.store(mask_sums + tile, tl.sum(mask, axis=0))
