"""Plans of launches: from the geometry of a call to block shapes, level tables and compiled constants.

There is no autotuning at run time, which could fall into a graph capture: a few block shapes are chosen by
layout and number of channels, for the reasons in docs/tuning-triton.md. All plans are cached.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ...contract import NORMALIZERS
from .geometry import Geometry
from .level_table import Level, encode
from .tiles import CHANNEL_MAJOR, LOCATION_MAJOR, MIXED_LAYOUTS, TileConfig

TL_DTYPES = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float64: tl.float64,
}
NVIDIA = not torch.version.hip and not torch.version.xpu
PIPELINED = not torch.version.hip  # on AMD the loads of a pipeline take registers; not measured there
STAGES = 3  # of a pipeline: one block is computed while two are in flight
# Unaligned levels are read element by element, and each access takes registers for its address. Their blocks
# are smaller by this factor, so that their code does not limit the occupancy of the aligned code in the same
# kernel.
_UNALIGNED_DIVISOR = 4
_PROGRAMS = 4096  # aimed at in a launch: about four waves on the largest GPUs
_cached = functools.lru_cache(maxsize=1024)


class BlockShape(NamedTuple):
    channels: int
    locations: int


class LaunchPlan(NamedTuple):
    """One launch over all levels. The addresses in its table are 0."""

    programs: int
    tile_bounds: tuple[int, ...]  # the first tile of each level, and the number of all tiles
    table: tuple[int, ...]
    config: TileConfig | None
    channel_blocks: int = 0  # blocks of channels in a tile; 0: all


# Block shapes and compile options.


def loss_block(layout: int, channels: int, dtype: torch.dtype) -> BlockShape:
    """One 16-byte access per thread and tensor: 8 elements of bfloat16 or 4 of float32."""
    return _block_shape(layout, channels, _elements(2048 // min(dtype.itemsize, 4), dtype), 8)


def mask_block(layout: int, channels: int, dtype: torch.dtype) -> BlockShape:
    """64 bytes per thread of the one tensor that is read, over few locations: there are many programs."""
    return _block_shape(layout, channels, _elements(8192 // min(dtype.itemsize, 4), dtype), 64)


def single_pass_block(layouts: list[int], acc: torch.dtype) -> BlockShape:
    """For both terms of the single pass, which share the locations of a tile."""
    elements = _elements(1024, acc)
    channels = 16 if all(layout == LOCATION_MAJOR.value for layout in layouts) else 32
    return BlockShape(channels, elements // channels)


def _block_shape(layout: int, channels: int, elements: int, block_c: int) -> BlockShape:
    """A block of ``elements``: with ``block_c`` channels in location-major levels, a long run of channels in
    channel-major ones."""
    if layout == LOCATION_MAJOR.value:
        return BlockShape(block_c, elements // block_c)
    if layout == MIXED_LAYOUTS.value:
        return BlockShape(32, elements // 32)
    # The longest run of channels with at most 7 % more padding than the best: 64 for 720 and 256, 16 for 80.
    padded = {run: -(-channels // run) * run for run in (64, 32, 16)}
    run = next(run for run in padded if padded[run] <= 1.07 * min(padded.values()))
    return BlockShape(run, elements // run)


def _elements(count: int, acc: torch.dtype) -> int:
    """Elements of a block: half in float64, where each takes two registers; eight times as many in the
    interpreter, where a program of any size takes milliseconds."""
    if acc == torch.float64:
        count //= 2
    interpreted = triton.knobs.runtime.interpret  # pyright: ignore[reportAttributeAccessIssue]  # a lazy module
    return 8 * count if interpreted else count


def loss_stages(layout: int, dtype: torch.dtype, has_grads: bool) -> int:
    """Stages of the loops over aligned levels in both terms, for students of ``dtype``. A fourth stage gains
    1 % for channel-major float32 and costs 1 % for location-major float32."""
    if not PIPELINED or not has_grads or layout == MIXED_LAYOUTS.value:
        return 1
    return STAGES + (layout == CHANNEL_MAJOR.value and dtype.itemsize > 2)


def max_loss_registers(*configs: TileConfig | None) -> int | None:
    """Limit of registers per thread of the loss kernel, or None.

    Location-major levels of 2-byte dtypes take 80 registers without a limit: six programs share a
    multiprocessor. With 64 there are eight, and the kernel is 7 % faster on an H200. The registers that do
    not fit (two, with channel weights three) are spilled before the loops and reloaded after them.
    """
    present = [config for config in configs if config]
    two_bytes = all(
        config.STUDENT_DTYPE.primitive_bitwidth == config.TEACHER_DTYPE.primitive_bitwidth == 16
        for config in present
    )
    small_location_major = all(
        config.LAYOUT == LOCATION_MAJOR.value and config.INDEX == tl.int32 for config in present
    )
    return 64 if NVIDIA and two_bytes and small_location_major else None


def mask_options(layout: int, block: BlockShape) -> dict:
    """Compile options of the mask kernel. Its blocks of unaligned levels are smaller by a factor of 2 only:
    it has registers to spare, and each iteration (23 for K = 720) waits for its loads."""
    if layout == MIXED_LAYOUTS.value:
        return {"STAGES": 1}
    return {"STAGES": STAGES if PIPELINED else 1, "UNALIGNED_BLOCK_C": max(1, block.channels // 2)}


# Launches.


@_cached
def plan_mask_pass(logits: Geometry, acc: torch.dtype) -> LaunchPlan:
    block = mask_block(logits.layout, max(logits.channels), logits.teacher_dtype)
    tiles = _tiles_of_all_channels(logits, block)
    return _plan(logits, block, tiles, acc, **mask_options(logits.layout, block))


@_cached
def plan_single_pass(
    logits: Geometry, feats: Geometry | None, acc: torch.dtype, beta: float, has_channel_weight: bool
) -> tuple[LaunchPlan, LaunchPlan | None]:
    """(plan of the logits, plan of the features): one launch, in which each program takes a tile of both."""
    block = single_pass_block([term.layout for term in (logits, feats) if term], acc)
    tiles = _tiles_of_all_channels(logits, block)
    head = _plan(logits, block, tiles, acc, BETA=beta)
    return head, feats and _plan(feats, block, tiles, acc, HAS_CHANNEL_WEIGHT=has_channel_weight)


@_cached
def plan_loss_pass(
    logits: Geometry | None, feats: Geometry | None, acc: torch.dtype, beta: float, has_channel_weight: bool
) -> tuple[LaunchPlan | None, LaunchPlan | None]:
    """(plan of the head term, plan of the imitation term): one launch with the tiles of both.

    The number of channel blocks in a tile is chosen so that there are about _PROGRAMS tiles.
    """
    terms = [term for term in (logits, feats) if term]
    blocks = [loss_block(term.layout, max(term.channels), term.student_dtype) for term in terms]
    num_blocks = sum(sum(_tiles(term, block, 1)) for term, block in zip(terms, blocks, strict=True))
    most = min(64, max(4, num_blocks // _PROGRAMS))
    plans = {}
    for term, block in zip(terms, blocks, strict=True):
        all_channel_blocks = max(1, -(-max(term.channels) // block.channels))
        tiles_c = -(-all_channel_blocks // most)
        channel_blocks = -(-all_channel_blocks // tiles_c)
        options = {"HAS_CHANNEL_WEIGHT": has_channel_weight} if term is feats else {"BETA": beta}
        plan = _plan(term, block, _tiles(term, block, channel_blocks), acc, **options)
        plans[term] = plan._replace(channel_blocks=channel_blocks)
    return plans.get(logits), plans.get(feats)


@_cached
def plan_flat(
    sizes: tuple[int, ...], block: int, pending: tuple[int, ...] = (), images: int = 1
) -> LaunchPlan:
    """Tiles of ``block`` elements over flat tensors, in which each of ``images`` parts has tiles of its own.
    Columns: first tile, address, elements of a part, ``pending``."""
    sizes = tuple(size // images for size in sizes)
    bounds = _tile_bounds([images * -(-size // block) for size in sizes])
    columns = [bounds[:-1], (0,) * len(sizes), sizes, *([pending] if pending else [])]
    table = encode(value for row in zip(*columns, strict=True) for value in row)
    return LaunchPlan(bounds[-1], bounds, table, None)


@_cached
def factor_table(
    tile_bounds: tuple[int, ...], logits: Geometry | None, feats: Geometry | None, normalizer: int
) -> tuple[int, ...]:
    """The table of reduce.py: per level the range of its partial sums of S, and a count for each term."""

    def counts(term: Geometry | None) -> list[int]:
        if term is None or NORMALIZERS[normalizer] == "batch":
            return (logits or feats).batch  # pyright: ignore[reportOptionalMemberAccess]  # one is there
        if NORMALIZERS[normalizer] == "numel":
            return [size * channels for size, channels in zip(term.mask_sizes, term.channels, strict=True)]
        return term.channels

    levels = zip(tile_bounds[:-1], tile_bounds[1:], counts(feats), counts(logits), strict=True)
    return encode(value for level in levels for value in level)


def tile_bounds_of_terms(feats: tuple[int, ...] | None, logits: tuple[int, ...] | None) -> tuple[int, ...]:
    """The tile bounds [2 * levels + 1] of both terms as a table: those of the imitation term come first."""
    feats = feats or (0,) * len(logits or ())
    logits = logits or (0,) * len(feats)
    return encode((*feats, *(feats[-1] + bound for bound in logits[1:])))


def _tiles_of_all_channels(term: Geometry, block: BlockShape) -> list[int]:
    """Tiles of each level, where a tile has all channels."""
    return [b * -(-n // block.locations) for b, n in zip(term.batch, term.locations, strict=True)]


def _tiles(term: Geometry, block: BlockShape, channel_blocks: int) -> list[int]:
    """Tiles of each level, where a tile has ``channel_blocks`` blocks of channels."""
    tiles = zip(_tiles_of_all_channels(term, block), term.channels, strict=True)
    return [n * -(-channels // (block.channels * channel_blocks)) for n, channels in tiles]


def _tile_bounds(tiles: list[int]) -> tuple[int, ...]:
    bounds = [0]
    for count in tiles:
        bounds.append(bounds[-1] + count)
    return tuple(bounds)


def _plan(term: Geometry, block: BlockShape, tiles: list[int], acc: torch.dtype, **options) -> LaunchPlan:
    bounds = _tile_bounds(tiles)
    levels = [
        Level(
            first_tile, term.locations[i], term.channels[i], term.flags[i], 0, 0, 0,
            0, *(term.student_strides[i] if term.has_students else (0, 0)),
            0, *term.teacher_strides[i],
        )
        for i, first_tile in enumerate(bounds[:-1])
    ]  # fmt: skip
    defaults = {
        "UNALIGNED_BLOCK_C": max(1, block.channels // _UNALIGNED_DIVISOR),
        "STAGES": loss_stages(term.layout, term.student_dtype, term.has_grads),
        "HAS_CHANNEL_WEIGHT": False,
        "BETA": 0.0,
    }
    config = TileConfig(
        LEVELS=term.num_levels,
        LAYOUT=term.layout,
        ALL_ALIGNED=term.all_aligned,
        VEC=term.vec,
        BLOCK_C=block.channels,
        BLOCK_L=block.locations,
        STUDENT_DTYPE=TL_DTYPES[term.student_dtype],
        TEACHER_DTYPE=TL_DTYPES[term.teacher_dtype],
        ACC=TL_DTYPES[acc],
        INDEX=tl.int64 if term.needs_int64_offsets(*block) else tl.int32,
        HAS_GRAD=term.has_grads,
        **(defaults | options),
    )
    return LaunchPlan(bounds[-1], bounds, encode(value for level in levels for value in level), config)
