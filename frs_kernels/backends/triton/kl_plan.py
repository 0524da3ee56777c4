"""Plans of the operator kl: block shapes, the table of the levels and the normalizers' counts. All cached."""

import functools
import itertools
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ...contract import MASK_SUM_NORMALIZERS, NORMALIZERS
from .geometry import Geometry
from .kl_tiles import BINS_CONTIGUOUS, MIXED, ROWS_CONTIGUOUS, KLConfig, KLLevel
from .level_table import FLAG_CHANNEL_MAJOR, encode
from .plan import NVIDIA, TL_DTYPES
from .tiles import CHANNEL_MAJOR, LOCATION_MAJOR

_cached = functools.lru_cache(maxsize=1024)
_MAX_INT32 = 2**31 - 1
# Threads and rows of a program in which equal bins of adjacent rows are contiguous, and the most parts whose
# elements stay in 64 registers (80 in a program of 256 threads). 16 rows have whole sectors of 32 bytes.
_SHAPES_OF_ROWS = (
    (128, 128, 24), (128, 64, 24), (128, 32, 24), (256, 32, 24), (512, 16, 12), (512, 8, 12),
)  # fmt: skip
_THREADS_OF_LONG_ROWS = (128, 256, 512, 1024)
_PROGRAMS = 4096  # aimed at in a launch, as in plan.py
_SEGMENT_PARTS = 4  # of distributions that do not stay in registers


class KLBlock(NamedTuple):
    """The shape of a program."""

    bins: int
    rows: int
    parts: int  # blocks of ``bins`` bins in a segment
    threads: int
    resident: bool


class KLPlan(NamedTuple):
    """The launch of kl_kernel. The addresses in its table are 0."""

    programs: int
    tile_bounds: tuple[int, ...]  # the first tile of each level, and the number of all tiles
    table: tuple[int, ...]
    config: KLConfig
    row_blocks: int  # blocks of rows in a tile
    threads: int


def kl_block(bins: int, order: int, acc: torch.dtype) -> KLBlock:
    """The block shape for distributions of at most ``bins`` bins. In float64, where a number takes two
    registers, half as many parts stay in them."""
    per_number = 2 if acc == torch.float64 else 1
    of_order = _block_of_bins if order == BINS_CONTIGUOUS.value else _block_of_rows
    block = of_order(bins, per_number)
    if not triton.knobs.runtime.interpret:  # pyright: ignore[reportAttributeAccessIssue]  # a lazy module
        return block
    # In the interpreter an operation on a block of any size takes as long: there are fewer and larger ones.
    parts = -(-block.parts // 8) if block.resident else block.parts
    return block._replace(bins=8 * block.bins, rows=max(block.rows, 16), parts=parts)


def _block_of_rows(bins: int, per_number: int) -> KLBlock:
    """One element per thread and part: a thread adds up the parts of one row, or every n-th of them."""
    for threads, rows, most in _SHAPES_OF_ROWS:
        block = threads // rows
        parts = max(1, -(-bins // block))
        if parts <= most // per_number:
            return KLBlock(block, rows, parts, threads, True)
    return KLBlock(16, 16, _SEGMENT_PARTS, 256, False)


def _block_of_bins(bins: int, per_number: int) -> KLBlock:
    """A run of bins per part. Long distributions have all threads of a program."""
    if bins <= 512:
        # A short run leaves lines of memory to the next part, a long one has more padding.
        run = min((8, 16, 32, 64), key=lambda run: -(-bins // run) * run * (1 + 4 / run))
        parts = max(1, -(-bins // run))
        rows = 128 // run
        while parts * run * 2 * rows <= 8 * 128 // per_number:
            rows *= 2
        return KLBlock(run, rows, parts, 128, True)
    for threads in _THREADS_OF_LONG_ROWS:
        if bins <= 12 // per_number * threads:
            return KLBlock(threads, 1, -(-bins // threads), threads, True)
    return KLBlock(512, 1, _SEGMENT_PARTS, 512, False)


def max_kl_registers(config: KLConfig, threads: int) -> int | None:
    """Limit of registers per thread of kl_kernel, or None. The compiler takes up to twice as many without a
    limit, and spills none with it: 1024 threads share a multiprocessor."""
    fits = config.ACC == tl.float32 and config.INDEX == tl.int32 and (threads != 256 or not config.RESIDENT)
    return 64 if NVIDIA and fits else None


@_cached
def plan_kl(
    term: Geometry, over_locations: bool, groups: int, acc: torch.dtype, has_weight: bool
) -> KLPlan:  # fmt: skip
    order = _order(term, over_locations)
    levels = [_level(term, level, over_locations, groups) for level in range(term.num_levels)]
    block = kl_block(max(level.bins for level in levels), order, acc)
    row_blocks = min(8, max(1, sum(_tiles(term, levels, block.rows)) // _PROGRAMS))
    bounds = tuple(itertools.accumulate(_tiles(term, levels, row_blocks * block.rows), initial=0))
    levels = [level._replace(first_tile=first) for level, first in zip(levels, bounds, strict=False)]
    config = KLConfig(
        LEVELS=term.num_levels,
        ORDER=order,
        RESIDENT=block.resident,
        EXACT=block.resident and {level.bins for level in levels} == {block.parts * block.bins},
        PARTS=block.parts,
        BLOCK_BINS=block.bins,
        BLOCK_ROWS=block.rows,
        STUDENT_DTYPE=TL_DTYPES[term.student_dtype],
        TEACHER_DTYPE=TL_DTYPES[term.teacher_dtype],
        ACC=TL_DTYPES[acc],
        INDEX=tl.int64 if any(_needs_int64(level, block) for level in levels) else tl.int32,
        HAS_WEIGHT=has_weight,
        HAS_GRAD=term.has_grads,
    )
    table = encode(value for level in levels for value in level)
    return KLPlan(bounds[-1], bounds, table, config, row_blocks, block.threads)


def _tiles(term: Geometry, levels: list[KLLevel], rows: int) -> list[int]:
    """Tiles of each level, where a tile has this many rows."""
    return [
        batch * level.groups * -(-level.rows // rows) if level.bins else 0
        for batch, level in zip(term.batch, levels, strict=True)
    ]


def _order(term: Geometry, over_locations: bool) -> int:
    if term.layout not in (LOCATION_MAJOR.value, CHANNEL_MAJOR.value):
        return MIXED.value
    bins_contiguous = over_locations == (term.layout == LOCATION_MAJOR.value)
    return BINS_CONTIGUOUS.value if bins_contiguous else ROWS_CONTIGUOUS.value


def _level(term: Geometry, level: int, over_locations: bool, groups: int) -> KLLevel:
    """The entries of a level, without its first tile.

    Groups of channels that follow each other without gaps, also from one location to the next, are rows of
    one stride.
    """
    channels, locations = term.channels[level], term.locations[level]
    channel_major = bool(term.flags[level] & FLAG_CHANNEL_MAJOR.value)
    inputs = term.student_strides[level], term.teacher_strides[level]
    grad = channels * locations, channels if channel_major else locations
    strides = [
        (stride_b, *((1, stride) if channel_major else (stride, 1))) for stride_b, stride in (grad, *inputs)
    ]
    bins, rows, per_weight = channels // groups, locations, 1
    if over_locations:
        bins, rows = locations, channels
        strides = [(stride_b, stride_l, stride_c) for stride_b, stride_c, stride_l in strides]
    elif channel_major and all(stride in (0, channels) for _, stride in inputs):
        rows, groups, per_weight = locations * groups, 1, groups
        strides = [(stride_b, 1, bins) for stride_b, *_ in strides]
    of_grad, of_student, of_teacher = strides
    return KLLevel(
        0, bins, rows, groups, per_weight, rows // per_weight, 0,
        0, *of_grad, 0, *of_student, 0, *of_teacher,
    )  # fmt: skip


def _needs_int64(level: KLLevel, block: KLBlock) -> bool:
    """Whether an offset within a block, or an index of a bin or a row, may exceed 32 bits."""
    bins = level.student_stride_bin, level.teacher_stride_bin, level.grad_stride_bin, level.bins
    rows = level.student_stride_row, level.teacher_stride_row, level.grad_stride_row, level.rows
    largest = max(level.bins, level.rows, block.bins * max(bins) + block.rows * max(rows))
    return largest > _MAX_INT32 - 2**16


@_cached
def normalizer_of(
    term: Geometry, over_locations: bool, normalizer: int, sum_bounds: tuple[int, ...] | None
) -> tuple[int, tuple[int, ...]]:
    """(code of the normalizer, table of factors_kernel): per level the range of the partial sums of the
    weights, and twice the count that the normalizer is or has as a factor.

    Without weights (``sum_bounds`` is None), each is 1: their sum is a count, too.
    """
    name = NORMALIZERS[normalizer]
    weights = [
        b * (c if over_locations else n)
        for b, c, n in zip(term.batch, term.channels, term.locations, strict=True)
    ]
    if name == "batch":
        counts = term.batch
    elif name == "numel":
        counts = [size * c for size, c in zip(term.mask_sizes, term.channels, strict=True)]
    elif name == "mask_channels" and sum_bounds is None:
        counts = [count * c for count, c in zip(weights, term.channels, strict=True)]
    elif name in MASK_SUM_NORMALIZERS and sum_bounds is None:
        counts = [sum(weights)] * term.num_levels if name == "mask_all_levels" else weights
        normalizer = NORMALIZERS.index("numel")
    else:
        counts = term.channels
    bounds = sum_bounds or (0,) * (term.num_levels + 1)
    rows = zip(bounds, bounds[1:], counts, counts, strict=False)
    return normalizer, encode(value for row in rows for value in row)
