"""The level table: sizes, strides and addresses of all levels, in one kernel argument.

A launch covers all levels. Their table is a tuple of integers that is passed by value, so nothing is copied
to the device and a captured CUDA graph keeps its arguments. Triton specialises each integer of a tuple on
being 1, on divisibility by 16 and on fitting 32 bits, which would mean a compilation for almost every image
size of a multi-scale training. :func:`encode` makes each entry odd and larger than 2^32, so that all sizes
share one compilation.
"""

from typing import NamedTuple

import triton
import triton.language as tl


class Level(NamedTuple):
    """The entries of one level. Addresses are 0 where there is no tensor; strides are in elements.

    One of channels and locations has stride 1, and ``*_stride`` is the stride of the other.
    """

    first_tile: int  # index in the launch of the level's first tile
    locations: int  # L = H * W
    channels: int  # C
    flags: int  # FLAG_ALIGNED | FLAG_CHANNEL_MAJOR
    mask: int  # address of S [B, L]
    channel_weight: int  # address of c [B, C]
    grad: int  # address of the student's gradient [B, C, L], which is dense
    student: int  # address of x or s [B, C, L]
    student_stride_b: int
    student_stride: int
    teacher: int  # address of y or T [B, C, L]
    teacher_stride_b: int
    teacher_stride: int


# Columns of the level table; the strides of a tensor are in the two columns after its address.
(
    FIRST_TILE, LOCATIONS, CHANNELS, FLAGS, MASK, CHANNEL_WEIGHT, GRAD, STUDENT, _, _, TEACHER, _, _,
) = (tl.constexpr(i) for i in range(len(Level._fields)))  # fmt: skip
COLUMNS = tl.constexpr(len(Level._fields))

FLAG_ALIGNED = tl.constexpr(1)  # the level allows 16-byte accesses
FLAG_CHANNEL_MAJOR = tl.constexpr(2)
_BIAS = tl.constexpr(1 << 39)


def encode(values) -> tuple[int, ...]:
    """Integers 0 <= v < 2^61 as :func:`table_entry` decodes them."""
    return tuple(2 * (value + _BIAS.value) + 1 for value in values)


_NO_ADDRESS = encode([0])[0]


def with_addresses(
    table: tuple[int, ...], addresses: dict[int, list[int]], columns: int = COLUMNS.value
) -> tuple[int, ...]:
    """The encoded table with these addresses (column -> one per level) in place of zeros."""
    filled = list(table)
    for column, of_levels in addresses.items():
        filled[column::columns] = [2 * address + _NO_ADDRESS for address in of_levels]
    return tuple(filled)


@triton.jit
def table_entry(table, column: tl.constexpr, level, LEVELS: tl.constexpr, COLUMNS: tl.constexpr = COLUMNS):
    """One entry of a table, int64. The level is a run-time value, so this is a chain of selects."""
    value = table[column]
    for i in tl.static_range(1, LEVELS):
        value = tl.where(level == i, table[i * COLUMNS + column], value)
    return (value >> 1) - _BIAS


@triton.jit
def level_of_tile(table, tile, LEVELS: tl.constexpr, COLUMNS: tl.constexpr = COLUMNS):
    """The level that ``tile`` belongs to: the last whose first tile (column 0) is at most ``tile``."""
    level = 0
    for i in tl.static_range(1, LEVELS):
        level += (tile >= (table[i * COLUMNS] >> 1) - _BIAS).to(tl.int32)
    return level
