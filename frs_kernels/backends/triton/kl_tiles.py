"""Tiles of the operator kl: which distributions a program processes, and the addresses of their bins.

To the kernel, a level is groups of *rows*, each a distribution of *bins*: over channels, a row is a location
of one group; over locations, it is a channel. Only strides tell the layouts and both kinds apart.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .level_table import table_entry

BINS_CONTIGUOUS = tl.constexpr(0)  # the bins of a distribution are adjacent in memory, in every level
ROWS_CONTIGUOUS = tl.constexpr(1)  # equal bins of adjacent rows are
MIXED = tl.constexpr(2)  # each level has its own order


class KLConfig(NamedTuple):
    """What the kernel is compiled for."""

    LEVELS: int
    ORDER: int  # BINS_CONTIGUOUS, ROWS_CONTIGUOUS or MIXED
    RESIDENT: bool  # a segment has all bins of every level
    EXACT: bool  # and these are PARTS * BLOCK_BINS, so that no bin is outside
    PARTS: int
    BLOCK_BINS: int
    BLOCK_ROWS: int
    STUDENT_DTYPE: Any  # tl.dtype of student and gradient
    TEACHER_DTYPE: Any
    ACC: Any  # accumulation dtype: tl.float32 or tl.float64
    INDEX: Any  # dtype of offsets within a block: int32, or int64 where a block spans 2^31 elements
    HAS_WEIGHT: bool
    HAS_GRAD: bool


class KLLevel(NamedTuple):
    """The entries of one level. Addresses are 0 where there is no tensor; strides are in elements."""

    first_tile: int  # index in the launch of the level's first tile
    bins: int  # of a distribution
    rows: int  # distributions with one stride
    groups: int  # of rows in an image, each ``bins`` bins after the one before
    rows_per_weight: int
    weights: int  # rows / rows_per_weight
    weight: int  # address of w [B, weights]
    grad: int  # address of the student's gradient, which is dense
    grad_stride_b: int
    grad_stride_bin: int
    grad_stride_row: int
    student: int
    student_stride_b: int
    student_stride_bin: int
    student_stride_row: int
    teacher: int
    teacher_stride_b: int
    teacher_stride_bin: int
    teacher_stride_row: int


# Columns of the table; the three strides of a tensor are in the columns after its address.
(
    FIRST_TILE, BINS, ROWS, GROUPS, ROWS_PER_WEIGHT, WEIGHTS, WEIGHT,
    GRAD, _, _, _, STUDENT, _, _, _, TEACHER, _, _, _,
) = (tl.constexpr(i) for i in range(len(KLLevel._fields)))  # fmt: skip
KL_COLUMNS = tl.constexpr(len(KLLevel._fields))


@triton.jit
def kl_entry(table, column: tl.constexpr, level, config: tl.constexpr):
    return table_entry(table, column, level, config.LEVELS, KL_COLUMNS)


@triton.jit
def kl_origin(table, level, tile, row_blocks, config: tl.constexpr):
    """(image, group, first row) of a tile. The groups are next to each other: they share lines of memory."""
    tile = (tile - kl_entry(table, FIRST_TILE, level, config)).to(tl.int32)
    groups = kl_entry(table, GROUPS, level, config).to(tl.int32)
    rows_of_tile = row_blocks * config.BLOCK_ROWS
    tiles_of_rows = tl.cdiv(kl_entry(table, ROWS, level, config).to(config.INDEX), rows_of_tile).to(tl.int32)
    position = tile // groups
    row = (position % tiles_of_rows).to(config.INDEX) * rows_of_tile
    return (position // tiles_of_rows).to(tl.int64), tile % groups, row


@triton.jit
def rows_view(
    table, column: tl.constexpr, DTYPE: tl.constexpr, level, image, group, row, config: tl.constexpr
):  # fmt: skip
    """(pointer to a tile's first row, stride_bin, stride_row) of the tensor in this column."""
    pointer = kl_entry(table, column, level, config).to(tl.pointer_type(DTYPE))
    pointer += image * kl_entry(table, column + 1, level, config)
    stride_bin = kl_entry(table, column + 2, level, config).to(config.INDEX)
    stride_row = kl_entry(table, column + 3, level, config).to(config.INDEX)
    if config.ORDER == BINS_CONTIGUOUS:
        stride_bin = tl.full([], 1, config.INDEX)
    if config.ORDER == ROWS_CONTIGUOUS:
        stride_row = tl.full([], 1, config.INDEX)
    bins_before = group * kl_entry(table, BINS, level, config)
    pointer += bins_before * stride_bin.to(tl.int64) + row * stride_row.to(tl.int64)
    return pointer, stride_bin, stride_row


@triton.jit
def part_pointers(view, bin, config: tl.constexpr):
    """Pointers [BLOCK_BINS, BLOCK_ROWS]: the first is addressed in 64 bits, the others by INDEX offsets."""
    pointer, stride_bin, stride_row = view
    offs_bin = tl.arange(0, config.BLOCK_BINS).to(config.INDEX)[:, None]
    offs_row = tl.arange(0, config.BLOCK_ROWS).to(config.INDEX)[None, :]
    return pointer + bin * stride_bin.to(tl.int64) + (offs_bin * stride_bin + offs_row * stride_row)


@triton.jit
def inside_bins(bin, bins, config: tl.constexpr):
    """Which bins [BLOCK_BINS, 1] of a block a distribution has."""
    if config.EXACT:
        inside = tl.full([config.BLOCK_BINS, 1], True, tl.int1)
    else:
        inside = (bin + tl.arange(0, config.BLOCK_BINS) < bins)[:, None]
    return inside


@triton.jit
def load_segment(view, first, bins, readable, config: tl.constexpr):
    """PARTS blocks [BLOCK_BINS, BLOCK_ROWS] from bin ``first`` on; -Inf from ``bins`` on and in rows that are
    not ``readable`` [1, BLOCK_ROWS]."""
    parts = ()
    PARTS: tl.constexpr = config.PARTS
    for i in tl.static_range(PARTS):
        bin = first + i * config.BLOCK_BINS
        inside = inside_bins(bin, bins, config) & readable
        pointers = part_pointers(view, bin, config)
        parts = parts + (tl.load(pointers, mask=inside, other=float("-inf")),)
    return parts


@triton.jit
def load_weight(table, level, image, row, readable, config: tl.constexpr):
    """w [BLOCK_ROWS]; 0 in rows that are not ``readable``."""
    if config.HAS_WEIGHT:
        pointer = kl_entry(table, WEIGHT, level, config).to(tl.pointer_type(config.ACC))
        pointer += image * kl_entry(table, WEIGHTS, level, config)
        position = row + tl.arange(0, config.BLOCK_ROWS)
        if config.ORDER != ROWS_CONTIGUOUS:
            position = position // kl_entry(table, ROWS_PER_WEIGHT, level, config).to(config.INDEX)
        weight = tl.load(pointer + position, mask=readable, other=0.0)
    else:
        weight = tl.where(readable, 1.0, 0.0).to(config.ACC)
    return weight
