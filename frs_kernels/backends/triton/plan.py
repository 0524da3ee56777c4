"""From tensors to launches: layouts, alignment, tile shapes and level tables. Host code, no kernels.

Nothing here is measured at run time: a small set of tile shapes, chosen by layout and channel count (the
reasons stand in ``docs/tuning-triton.md``), so that no autotuning can fall into a graph capture.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from frs_kernels.backends.triton.tiles import (
    ALIGNED,
    CHANNEL,
    CHANNEL_MAJOR,
    LOCATION,
    MIXED,
    Row,
    Term,
    encode,
)
from frs_kernels.levels import layout, location_stride

DTYPES = {
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float64: tl.float64,
}
NUM_WARPS = 2 if torch.version.hip else 4  # 128 threads
_INT32 = 2**31 - 1
# Accesses of one element need an address each: their code takes fewer channels at a time, or its registers
# would limit the occupancy of the wide code beside it.
_NARROWER = 4
_PROGRAMS = 8192  # a launch should have: about eight waves on the largest GPUs


class Shape(NamedTuple):
    """BC channels x BL locations."""

    BC: int
    BL: int


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


class Levels:
    """The tensors of one term, level by level, and what their layout allows."""

    def __init__(self, students: list[Tensor], teachers: list[Tensor], grads: list[Tensor]):
        self.students, self.teachers, self.grads = students, teachers, grads
        self.some = students or teachers
        self.batch = [t.shape[0] for t in self.some]
        self.channels = [t.shape[1] for t in self.some]
        self.locations = [math.prod(t.shape[2:]) for t in self.some]
        self.layout = self._layout()

    def tensors(self, level: int) -> list[Tensor]:
        return [levels[level] for levels in (self.students, self.teachers) if levels]

    def _layout(self) -> int:
        """One layout for all levels if there is one: a level of one location or one channel fits many."""
        levels = range(len(self.some))
        if all(location_stride(t) == 1 for i in levels for t in self.tensors(i)):
            return LOCATION.value
        if all(self._fits_channel_major(t) for i in levels for t in self.tensors(i)):
            return CHANNEL.value
        return MIXED.value

    @staticmethod
    def _fits_channel_major(tensor: Tensor) -> bool:
        if tensor.numel() == 0 or layout(tensor) == "channels":
            return True
        return tensor.shape[1] == 1 or (math.prod(tensor.shape[2:]) == 1 and tensor.stride(1) == 1)

    def channel_major(self, level: int) -> bool:
        if self.layout == MIXED.value:
            return layout(self.some[level]) == "channels"
        return self.layout == CHANNEL.value

    def stride(self, tensor: Tensor, level: int) -> int:
        """The stride, of channels or locations, that the layout leaves open; 0 where there is but one."""
        if self.channel_major(level):
            return location_stride(tensor) if self.locations[level] > 1 else 0
        return tensor.stride(1) if self.channels[level] > 1 else 0

    def vector(self) -> int:
        """Elements of the narrowest dtype in 16 bytes."""
        return 16 // min(t.element_size() for t in self.tensors(0))

    def aligned(self, level: int) -> bool:
        """Whether every run of a level may be cut into 16-byte pieces of the narrowest dtype."""
        vec = self.vector()
        channel_major = self.channel_major(level)
        run = self.channels[level] if channel_major else self.locations[level]
        if self.layout == MIXED.value or run % vec:
            return False
        addresses = [*self.tensors(level), *(self.grads[level : level + 1])]
        return all(t.data_ptr() % 16 == 0 for t in addresses) and all(
            self.stride(t, level) % vec == 0 and (t.stride(0) % vec == 0 or t.shape[0] == 1)
            for t in self.tensors(level)
        )

    def wide(self, tile: Shape) -> bool:
        """Whether an offset in a tile, or a position along an axis, may exceed 32 bits."""
        for level in range(len(self.some)):
            longest = tile.BL if self.channel_major(level) else tile.BC
            ends = (self.locations[level], self.channels[level])
            reach = max(self.stride(t, level) * longest for t in self.tensors(level))
            if max(reach, *ends, *(end * longest for end in ends)) > _INT32 - 2**16:
                return True
        return False

    def term(self, tile: Shape, acc: torch.dtype, channel_weights=False, beta=0.0) -> Term:
        live = [i for i, t in enumerate(self.some) if t.numel()]
        return Term(
            ROWS=len(self.some),
            LAYOUT=self.layout,
            ALL_ALIGNED=self.layout != MIXED.value and all(self.aligned(i) for i in live),
            VEC=self.vector(),
            BC=tile.BC,
            NARROW_BC=max(1, tile.BC // _NARROWER),
            BL=tile.BL,
            STUDENT=DTYPES[(self.students or self.teachers)[0].dtype],
            TEACHER=DTYPES[self.teachers[0].dtype],
            ACC=DTYPES[acc],
            INDEX=tl.int64 if self.wide(tile) else tl.int32,
            CHANNEL_WEIGHTS=channel_weights,
            BETA=beta,
            GRAD=bool(self.grads),
        )

    def row(self, level: int, start: int, weight: int, channel_weight: int) -> Row:
        def view(levels: list[Tensor]) -> tuple[int, int, int]:
            if not levels:
                return 0, 0, 0
            tensor = levels[level]
            return tensor.data_ptr(), tensor.stride(0), self.stride(tensor, level)

        flags = self.aligned(level) * ALIGNED.value + self.channel_major(level) * CHANNEL_MAJOR.value
        return Row(
            start, self.locations[level], self.channels[level], flags, weight, channel_weight,
            self.grads[level].data_ptr() if self.grads else 0,
            *view(self.students), *view(self.teachers),
        )  # fmt: skip

    def table(self, starts: list[int], weights: list[int], channel_weights=None) -> tuple[int, ...]:
        """The level table: first tiles, and addresses of the maps and channel weights, a level."""
        rows = zip(starts, weights, channel_weights or [0] * len(starts), strict=True)
        return encode(v for level, row in enumerate(rows) for v in self.row(level, *row))


def _elements(count: int, acc: torch.dtype) -> int:
    """Elements of a tile: fewer where each takes two registers; more in the interpreter, which takes
    milliseconds for a program of any size."""
    if acc == torch.float64:
        count //= 2
    return 8 * count if triton.knobs.runtime.interpret else count


def loss_tile(order: int, channels: int, acc: torch.dtype) -> Shape:
    """8 elements a thread: one 16-byte access of bfloat16, in 64 to 96 registers."""
    return _tile(order, channels, _elements(1024, acc), 8)


def mask_tile(order: int, channels: int, acc: torch.dtype) -> Shape:
    """32 elements a thread of the one tensor that is read, over few locations: many programs."""
    return _tile(order, channels, _elements(4096, acc), 64)


def single_tile(orders: list[int], acc: torch.dtype) -> Shape:
    """For both terms of the single pass, which share the locations of a tile."""
    elements = _elements(1024, acc)
    rows = 16 if all(order == LOCATION.value for order in orders) else 32
    return Shape(rows, elements // rows)


def location_tiles(levels: Levels, tile: Shape) -> list[int]:
    """Tiles of all channels of BL locations, a level."""
    return [b * -(-n // tile.BL) for b, n in zip(levels.batch, levels.locations, strict=True)]


def steps(parts: list[tuple[Levels, Shape]]) -> list[int]:
    """How many blocks of BC channels one tile of each term takes: as many as leave enough programs."""
    blocks = 0
    for levels, tile in parts:
        runs = location_tiles(levels, tile)
        blocks += sum(n * -(-c // tile.BC) for n, c in zip(runs, levels.channels, strict=True))
    most = min(64, max(4, blocks // _PROGRAMS))
    chosen = []
    for levels, tile in parts:
        columns = max(1, -(-max(levels.channels) // tile.BC))
        chunks = -(-columns // most)
        chosen.append(-(-columns // chunks))
    return chosen


def chunk_tiles(levels: Levels, tile: Shape, step: int) -> list[int]:
    """Tiles of ``step`` blocks of channels of BL locations, a level."""
    runs = location_tiles(levels, tile)
    return [n * -(-c // (tile.BC * step)) for n, c in zip(runs, levels.channels, strict=True)]


def starts(counts: list[int]) -> tuple[list[int], int]:
    """The running sum of the counts before each entry, and their total."""
    total, first = 0, []
    for count in counts:
        first.append(total)
        total += count
    return first, total
