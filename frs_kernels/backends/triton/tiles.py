"""How a program finds its work: the level table, tiles, addresses, and sums in a fixed order.

A launch covers all levels. What it must know about them travels by value, as one tuple of 64-bit integers
(a ``Row`` a level), so that a captured launch stays valid and nothing is copied to the device. Triton
specialises integers in a tuple on 1, on divisibility by 16 and on their size, which would compile again
for almost every image size of a multi-scale training; :func:`encode` makes each of them odd and larger
than 2^32, so that all sizes share one compilation. What the compiler must know to emit wide accesses it
is told explicitly (``VEC``), in code (``WIDE``) that runs only for levels where the host found it to be true.

A tile has BC channels x BL locations in every layout; only the strides differ. One function serves all.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.language.extra import libdevice


class Row(NamedTuple):
    """What kernels over [B, C, L] tensors know about one level. Addresses are 0 where there is no tensor."""

    start: int  # first tile of the level in the launch
    locations: int
    channels: int
    flags: int  # ALIGNED | CHANNEL_MAJOR
    weight: int  # address of S [B, L]
    channel_weight: int  # address of [B, C]
    grad: int  # address of the dense gradient
    student: int  # address
    student_batch: int  # stride of the batch
    student_stride: int  # stride of the one of channels and locations whose stride is not 1
    teacher: int
    teacher_batch: int
    teacher_stride: int


class Term(NamedTuple):
    """What a kernel is compiled for: one term (imitation or head) of all levels."""

    ROWS: int
    LAYOUT: int
    ALL_ALIGNED: bool  # then no code for narrow accesses
    VEC: int  # elements of the narrowest dtype in 16 bytes
    BC: int
    NARROW_BC: int  # channels at a time in the code for levels that are not aligned
    BL: int
    STUDENT: Any  # tl.dtype of student and gradient
    TEACHER: Any
    ACC: Any  # float32 or float64
    INDEX: Any  # of offsets within a tile: int32, or int64 where one tile spans more than 2^31 elements
    CHANNEL_WEIGHTS: bool
    BETA: float  # a hyper-parameter: compiled in, so that 1 and 2 need no logarithm
    GRAD: bool
    STAGES: int  # of the loops over wide accesses: one tile is computed, the rest are on their way


(
    START, LOCATIONS, CHANNELS, FLAGS, WEIGHT, CHANNEL_WEIGHT, GRAD, STUDENT, _, _, TEACHER, _, _,
) = (tl.constexpr(i) for i in range(len(Row._fields)))  # fmt: skip
WIDTH = tl.constexpr(len(Row._fields))

LOCATION = tl.constexpr(0)  # location-major (NCHW): stride_l == 1
CHANNEL = tl.constexpr(1)  # channel-major (channels_last): stride_c == 1
MIXED = tl.constexpr(2)  # each level has its own; no wide accesses
ALIGNED = tl.constexpr(1)
CHANNEL_MAJOR = tl.constexpr(2)
_BIAS = tl.constexpr(1 << 39)
# The device library's float32 exp and division that skip subnormal results: a third fewer instructions for
# the same two units in the last place. The interpreter does not have them.
FAST = tl.constexpr(not triton.knobs.runtime.interpret)


def encode(values) -> tuple[int, ...]:
    """Integers 0 <= v < 2^61 as the kernels read them with :func:`field`."""
    return tuple(2 * (value + _BIAS.value) + 1 for value in values)


@triton.jit
def field(table, column: tl.constexpr, row, ROWS: tl.constexpr, WIDTH: tl.constexpr = WIDTH):
    """One entry of a table, int64. The row is known at run time only, so this is a chain of selects."""
    value = table[column]
    for i in tl.static_range(1, ROWS):
        value = tl.where(row == i, table[i * WIDTH + column], value)
    return (value >> 1) - _BIAS


@triton.jit
def row_of(table, tile, ROWS: tl.constexpr, WIDTH: tl.constexpr = WIDTH):
    """The row whose tiles include ``tile``: the last that starts at or before it."""
    row = 0
    for i in tl.static_range(1, ROWS):
        row += (tile >= (table[i * WIDTH] >> 1) - _BIAS).to(tl.int32)
    return row


@triton.jit
def place(table, level, tile, steps, term: tl.constexpr):
    """Decodes a tile: (image, first channel, first location). It has BL locations and ``steps * BC``
    channels, or all channels if ``steps`` is None."""
    tile = (tile - field(table, START, level, term.ROWS)).to(tl.int32)
    blocks = tl.cdiv(field(table, LOCATIONS, level, term.ROWS), term.BL).to(tl.int32)
    location = (tile % blocks).to(term.INDEX) * term.BL
    image = tile // blocks
    channel = tl.full([], 0, term.INDEX)
    if steps is not None:
        chunks = tl.cdiv(field(table, CHANNELS, level, term.ROWS), steps * term.BC).to(tl.int32)
        channel = (image % chunks).to(term.INDEX) * (steps * term.BC)
        image = image // chunks
    return image.to(tl.int64), channel, location


@triton.jit
def extent(table, level, term: tl.constexpr, WIDE: tl.constexpr):
    """(channels, locations); of the contiguous one the compiler learns that it is a multiple of VEC."""
    VEC: tl.constexpr = term.VEC if WIDE else 1
    channels = field(table, CHANNELS, level, term.ROWS).to(term.INDEX)
    locations = field(table, LOCATIONS, level, term.ROWS).to(term.INDEX)
    if term.LAYOUT == LOCATION:
        locations = locations // VEC * VEC
    if term.LAYOUT == CHANNEL:
        channels = channels // VEC * VEC
    return channels, locations


@triton.jit
def strides(other, flags, term: tl.constexpr, WIDE: tl.constexpr):
    """(stride_c, stride_l) of a tensor whose one stride is 1 and whose other is ``other``."""
    VEC: tl.constexpr = term.VEC if WIDE else 1
    stride_c = other.to(term.INDEX) // VEC * VEC
    stride_l = stride_c
    if term.LAYOUT == LOCATION:
        stride_l = tl.full([], 1, term.INDEX)
    if term.LAYOUT == CHANNEL:
        stride_c = tl.full([], 1, term.INDEX)
    if term.LAYOUT == MIXED:
        channel_major = (flags & CHANNEL_MAJOR) != 0
        stride_c = tl.where(channel_major, 1, stride_c)
        stride_l = tl.where(channel_major, stride_l, 1)
    return stride_c, stride_l


@triton.jit
def input_view(
    table,
    column: tl.constexpr,
    DTYPE: tl.constexpr,
    level,
    image,
    flags,
    term: tl.constexpr,
    WIDE: tl.constexpr,
):
    """(pointer to the image, stride_c, stride_l) of the tensor whose address, batch stride and other stride
    stand in ``column`` and the two after it."""
    pointer = field(table, column, level, term.ROWS).to(tl.pointer_type(DTYPE))
    pointer += image * field(table, column + 1, level, term.ROWS)
    stride_c, stride_l = strides(field(table, column + 2, level, term.ROWS), flags, term, WIDE)
    return pointer, stride_c, stride_l


@triton.jit
def grad_view(table, level, image, flags, term: tl.constexpr, WIDE: tl.constexpr):
    """(pointer to the image, stride_c, stride_l) of the gradient, which is dense."""
    pointer = field(table, GRAD, level, term.ROWS).to(tl.pointer_type(term.STUDENT))
    channels, locations = (
        field(table, CHANNELS, level, term.ROWS),
        field(table, LOCATIONS, level, term.ROWS),
    )
    other = locations
    if term.LAYOUT == CHANNEL:
        other = channels
    if term.LAYOUT == MIXED:
        other = tl.where((flags & CHANNEL_MAJOR) != 0, channels, locations)
    stride_c, stride_l = strides(other, flags, term, WIDE)
    return pointer + image * channels * locations, stride_c, stride_l


@triton.jit
def block(view, channel, location, term: tl.constexpr, WIDE: tl.constexpr):
    """Pointers to BC channels x BL locations: the corner is a 64-bit address, the rest INDEX offsets."""
    pointer, stride_c, stride_l = view
    corner = pointer + (channel * stride_c.to(tl.int64) + location * stride_l.to(tl.int64))
    if WIDE:
        corner = tl.multiple_of(corner, 16)
    BC: tl.constexpr = term.BC if WIDE else term.NARROW_BC
    c = tl.arange(0, BC).to(term.INDEX)[:, None]
    i = tl.arange(0, term.BL).to(term.INDEX)[None, :]
    return corner + (c * stride_c + i * stride_l)


@triton.jit
def load_once(
    view, channel, channels, location, readable, PADDING: tl.constexpr, term: tl.constexpr, WIDE: tl.constexpr
):
    """A block that nothing will read again; padding behind the last channel and where it is not readable."""
    BC: tl.constexpr = term.BC if WIDE else term.NARROW_BC
    inside = (channel + tl.arange(0, BC) < channels)[:, None] & readable
    pointers = block(view, channel, location, term, WIDE)
    return tl.load(pointers, mask=inside, other=PADDING, eviction_policy="evict_first")


@triton.jit
def location_weights(table, level, image, location, alive, term: tl.constexpr):
    """S of BL locations; 0 behind the last one, and everywhere in a level that does not count."""
    pointer = field(table, WEIGHT, level, term.ROWS).to(tl.pointer_type(term.ACC))
    locations = field(table, LOCATIONS, level, term.ROWS)
    pointer += image * locations + location
    i = tl.arange(0, term.BL).to(term.INDEX)
    return tl.load(pointer + i, mask=location + i < tl.where(alive, locations, 0), other=0.0)


@triton.jit
def largest(values):
    """The maximum over axis 0, NaN if there is one: a reduction by maximum alone may drop it."""
    poisoned = tl.max((values != values).to(tl.int32), axis=0) > 0
    return tl.where(poisoned, float("nan"), tl.max(values, axis=0))


@triton.jit
def decay(x):
    """exp(-|x|)"""
    if x.dtype == tl.float32 and FAST:
        e = libdevice.fast_expf(tl.abs(x) * -1.0)  # where -|x| would be 0 - |x|, an instruction
    else:
        e = tl.exp(-tl.abs(x))
    return e


@triton.jit
def quotient(x, y):
    """x / y for a y that is neither very large nor very small."""
    if x.dtype == tl.float32 and FAST:
        q = libdevice.fast_dividef(x, y)
    else:
        q = x / y
    return q


@triton.jit
def expm1(x):
    """exp(x) - 1 for x <= 0, exact to a few roundings however small x is."""
    if FAST:
        result = libdevice.expm1(x)
    else:
        u = tl.exp(x)
        small = (x > -1.0) & (u != 1.0)
        near = tl.where(u == 1.0, x, (u - 1.0) * x / tl.where(small, tl.log(u), 1.0))
        result = tl.where(x > -1.0, near, u - 1.0)
    return result


@triton.jit
def sigmoid(x):
    """One a location, so it affords what keeps subnormal results: decay() makes them 0."""
    if FAST:
        e = libdevice.exp(-tl.abs(x))
    else:
        e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def sum_range(pointer, first, last, ACC: tl.constexpr, BLOCK: tl.constexpr = 2048):
    """The sum of pointer[first:last], in an order that depends on the range alone."""
    total = tl.full([BLOCK], 0.0, ACC)
    for start in range(first, last, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(pointer + i, mask=i < last, other=0.0, cache_modifier=".cg")
    return tl.sum(total, axis=0)
