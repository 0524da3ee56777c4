"""From geometries to launches: tile shapes, level tables, what a kernel is compiled for. Remembered.

Nothing here is measured at run time: a small set of tile shapes, chosen by layout and channel count (the
reasons stand in ``docs/tuning-triton.md``), so that no autotuning can fall into a graph capture.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from frs_kernels.backends.triton.geometry import Geometry
from frs_kernels.backends.triton.tiles import CHANNEL, LOCATION, MIXED, Row, Term, encode

DTYPES = {
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float64: tl.float64,
}
# Accesses of one element need an address each: their code takes fewer channels at a time, or its registers
# would limit the occupancy of the wide code beside it.
_NARROWER = 4
NVIDIA = not torch.version.hip and not torch.version.xpu
PIPELINED = not torch.version.hip  # on AMD the loads go through registers, and nobody has measured it
STAGES = 3  # of a pipeline: two tiles on their way while one is computed
_PROGRAMS = 4096  # a launch should have: about four waves on the largest GPUs
_BATCH, _NUMEL = 2, 3  # positions in contract.NORMALIZERS
_ADDRESS = encode([0])[0]  # of nothing
_remembered = functools.lru_cache(maxsize=1024)


class Shape(NamedTuple):
    """BC channels x BL locations."""

    BC: int
    BL: int


class Launch(NamedTuple):
    """A grid, the table of its levels with all addresses missing, and what the kernel is compiled for."""

    programs: int
    bounds: tuple[int, ...]  # the first program of each level, and ``programs``
    table: tuple[int, ...]
    term: Term
    steps: int = 0  # blocks of BC channels that one program takes


def _tile(order: int, channels: int, elements: int, rows: int) -> Shape:
    """A tile of ``elements``: ``rows`` channels of a long run of locations, or whole runs of channels."""
    if order == LOCATION.value:
        return Shape(rows, elements // rows)
    if order == MIXED.value:
        return Shape(32, elements // 32)
    # The widest run of channels that pads K by little over the least: 64 for 720 and 256, 16 for 80.
    padded = {width: -(-channels // width) * width for width in (64, 32, 16)}
    width = next(w for w in padded if padded[w] <= 1.07 * min(padded.values()))
    return Shape(width, elements // width)


def _elements(count: int, acc: torch.dtype) -> int:
    """Elements of a tile: fewer where each takes two registers; more in the interpreter, which takes
    milliseconds for a program of any size."""
    if acc == torch.float64:
        count //= 2
    return 8 * count if triton.knobs.runtime.interpret else count


def loss_tile(order: int, channels: int, dtype: torch.dtype) -> Shape:
    """One 16-byte access a thread and tensor: 8 elements of bfloat16 or 4 of float32."""
    return _tile(order, channels, _elements(2048 // min(dtype.itemsize, 4), dtype), 8)


def stages(order: int, dtype: torch.dtype, grad: bool) -> int:
    """Of the loops over wide accesses of both terms, students of ``dtype``. A fourth stage helped float32
    in channel-major tensors, 1041 to 1033 us, and cost 1078 to 1089 in location-major ones."""
    if not PIPELINED or not grad or order == MIXED.value:
        return 1
    return STAGES + (order == CHANNEL.value and dtype.itemsize > 2)


def loss_registers(*terms: Term | None) -> int | None:
    """The most registers a thread of the loss kernel may have, or None. The 80 of 2-byte dtypes in
    location-major tensors leave six programs to a multiprocessor; with 64 there are eight, and 621 us become
    575. The two that are spilled are stored before the loops and loaded behind them."""
    found = [t for t in terms if t]
    halves = all(t.STUDENT.primitive_bitwidth == t.TEACHER.primitive_bitwidth == 16 for t in found)
    narrow = all(t.LAYOUT == LOCATION.value and t.INDEX == tl.int32 for t in found)
    return 64 if NVIDIA and halves and narrow else None


def mask_options(order: int, tile: Shape) -> dict:
    """A pipeline as well; and where levels are not aligned, half of the channels at a time: this kernel has
    registers to spare, and its narrow programs wait for one load after another, 23 times for K = 720."""
    if order == MIXED.value:
        return {"STAGES": 1}
    return {"STAGES": STAGES if PIPELINED else 1, "NARROW_BC": max(1, tile.BC // 2)}


def mask_tile(order: int, channels: int, dtype: torch.dtype) -> Shape:
    """64 bytes a thread of the one tensor that is read, over few locations: many programs."""
    return _tile(order, channels, _elements(8192 // min(dtype.itemsize, 4), dtype), 64)


def single_tile(orders: list[int], acc: torch.dtype) -> Shape:
    """For both terms of the single pass, which share the locations of a tile."""
    elements = _elements(1024, acc)
    rows = 16 if all(order == LOCATION.value for order in orders) else 32
    return Shape(rows, elements // rows)


@_remembered
def mask_launch(logits: Geometry, acc: torch.dtype) -> Launch:
    tile = mask_tile(logits.order, max(logits.channels), logits.teacher)
    return _launch(logits, tile, _runs(logits, tile), acc, **mask_options(logits.order, tile))


@_remembered
def single_launches(
    logits: Geometry, feats: Geometry | None, acc: torch.dtype, beta: float, channel_weights: bool
) -> tuple[Launch, Launch | None]:
    """Of logits and features, over the same programs."""
    tile = single_tile([part.order for part in (logits, feats) if part], acc)
    runs = _runs(logits, tile)
    head = _launch(logits, tile, runs, acc, BETA=beta)
    return head, feats and _launch(feats, tile, runs, acc, CHANNEL_WEIGHTS=channel_weights)


@_remembered
def loss_launches(
    logits: Geometry | None, feats: Geometry | None, acc: torch.dtype, beta: float, channel_weights: bool
) -> tuple[Launch | None, Launch | None]:
    """Of the head and the imitation term; each program takes as many channels as leave enough programs."""
    present = [part for part in (logits, feats) if part]
    parts = [(part, loss_tile(part.order, max(part.channels), part.student)) for part in present]
    blocks = sum(sum(_chunks(part, tile, 1)) for part, tile in parts)
    most = min(64, max(4, blocks // _PROGRAMS))
    found = {}
    for part, tile in parts:
        columns = max(1, -(-max(part.channels) // tile.BC))
        steps = -(-columns // -(-columns // most))
        extra = {"CHANNEL_WEIGHTS": channel_weights} if part is feats else {"BETA": beta}
        found[part] = _launch(part, tile, _chunks(part, tile, steps), acc, **extra)._replace(steps=steps)
    return found.get(logits), found.get(feats)


@_remembered
def factor_table(
    bounds: tuple[int, ...], logits: Geometry | None, feats: Geometry | None, normalizer: int
) -> tuple[int, ...]:
    """The table of reduce.py: each level's partial sums, and what N_l is multiplied or replaced by."""

    def counts(part: Geometry | None) -> list[int]:
        if part is None or normalizer == _BATCH:
            return (logits or feats).batch
        if normalizer == _NUMEL:
            return [size * channels for size, channels in zip(part.sizes, part.channels, strict=True)]
        return part.channels

    rows = zip(bounds[:-1], bounds[1:], counts(feats), counts(logits), strict=True)
    return encode(v for row in rows for v in row)


@_remembered
def flat_launch(sizes: tuple[int, ...], span: int, entries: tuple[int, ...] = ()) -> Launch:
    """Programs of ``span`` elements over flat tensors. Rows: first program, address, elements, entry."""
    bounds = _bounds([-(-size // span) for size in sizes])
    columns = [bounds[:-1], (0,) * len(sizes), sizes, *([entries] if entries else [])]
    return Launch(bounds[-1], bounds, encode(v for row in zip(*columns, strict=True) for v in row), None)


def with_addresses(table: tuple[int, ...], columns: dict[int, list[int]], width: int) -> tuple[int, ...]:
    """The table with addresses in these columns."""
    filled = list(table)
    for column, addresses in columns.items():
        filled[column::width] = [2 * address + _ADDRESS for address in addresses]
    return tuple(filled)


def _runs(part: Geometry, tile: Shape) -> list[int]:
    """Programs that take all channels of BL locations, a level."""
    return [b * -(-n // tile.BL) for b, n in zip(part.batch, part.locations, strict=True)]


def _chunks(part: Geometry, tile: Shape, steps: int) -> list[int]:
    """Programs that take ``steps`` blocks of channels of BL locations, a level."""
    runs = zip(_runs(part, tile), part.channels, strict=True)
    return [run * -(-channels // (tile.BC * steps)) for run, channels in runs]


def _bounds(counts: list[int]) -> tuple[int, ...]:
    bounds = [0]
    for count in counts:
        bounds.append(bounds[-1] + count)
    return tuple(bounds)


def _launch(part: Geometry, tile: Shape, counts: list[int], acc: torch.dtype, **changes) -> Launch:
    bounds = _bounds(counts)
    rows = [
        Row(
            start, part.locations[i], part.channels[i], part.flags[i], 0, 0, 0,
            0, *(part.student_strides[i] if part.has_student else (0, 0)),
            0, *part.teacher_strides[i],
        )
        for i, start in enumerate(bounds[:-1])
    ]  # fmt: skip
    values = {
        "NARROW_BC": max(1, tile.BC // _NARROWER), "STAGES": stages(part.order, part.student, part.grad),
        "CHANNEL_WEIGHTS": False, "BETA": 0.0, **changes,
    }  # fmt: skip
    term = Term(
        ROWS=part.rows,
        LAYOUT=part.order,
        ALL_ALIGNED=part.all_aligned,
        VEC=part.vector,
        BC=tile.BC,
        BL=tile.BL,
        STUDENT=DTYPES[part.student],
        TEACHER=DTYPES[part.teacher],
        ACC=DTYPES[acc],
        INDEX=tl.int64 if part.wide(*tile) else tl.int32,
        GRAD=part.grad,
        **values,
    )
    return Launch(bounds[-1], bounds, encode(v for row in rows for v in row), term)
