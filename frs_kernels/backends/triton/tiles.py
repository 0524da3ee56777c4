"""Tiles and blocks: which part of a level a program processes, and the addresses of its elements.

A program processes one *tile*: ``channel_blocks`` blocks of one image's channels at BLOCK_L locations. The
loops over a tile take one *block* of BLOCK_C channels x BLOCK_L locations per iteration, in every layout:
only the strides differ, so one function serves all layouts.

The encoded integers of the level table prove no alignment to the compiler. ``VECTORIZED`` code promises it
(``VEC``) and gets 16-byte accesses; it runs only for levels whose alignment the host has checked.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .level_table import (
    CHANNELS,
    FIRST_TILE,
    FLAG_CHANNEL_MAJOR,
    GRAD,
    LOCATIONS,
    MASK,
    table_entry,
)

LOCATION_MAJOR = tl.constexpr(0)  # NCHW: stride_l == 1
CHANNEL_MAJOR = tl.constexpr(1)  # channels_last: stride_c == 1
MIXED_LAYOUTS = tl.constexpr(2)  # each level has its own; no 16-byte accesses


class TileConfig(NamedTuple):
    """What a kernel is compiled for: layout, block shape and dtypes of one term (imitation or head)."""

    LEVELS: int
    LAYOUT: int  # LOCATION_MAJOR, CHANNEL_MAJOR or MIXED_LAYOUTS
    ALL_ALIGNED: bool  # every level is aligned: the code for other levels is not compiled
    VEC: int  # elements of the narrowest dtype in 16 bytes
    BLOCK_C: int
    UNALIGNED_BLOCK_C: int  # BLOCK_C of the code for levels that are not aligned
    BLOCK_L: int
    STUDENT_DTYPE: Any  # tl.dtype of student and gradient
    TEACHER_DTYPE: Any
    ACC: Any  # accumulation dtype: tl.float32 or tl.float64
    INDEX: Any  # dtype of offsets within a block: int32, or int64 where a block spans 2^31 elements
    HAS_CHANNEL_WEIGHT: bool
    BETA: float  # focal exponent of the head term: compiled in, so that 1 and 2 need no logarithm
    HAS_GRAD: bool
    STAGES: int  # of the pipelined loops over aligned levels: one block is computed, the others are in flight


@triton.jit
def tile_origin(table, level, tile, channel_blocks, config: tl.constexpr):
    """(image, first channel, first location) of a tile. ``channel_blocks`` is None: it has all channels."""
    tile = (tile - table_entry(table, FIRST_TILE, level, config.LEVELS)).to(tl.int32)
    tiles_l = tl.cdiv(table_entry(table, LOCATIONS, level, config.LEVELS), config.BLOCK_L).to(tl.int32)
    location = (tile % tiles_l).to(config.INDEX) * config.BLOCK_L
    image = tile // tiles_l
    channel = tl.full([], 0, config.INDEX)
    if channel_blocks is not None:
        channels = channel_blocks * config.BLOCK_C
        tiles_c = tl.cdiv(table_entry(table, CHANNELS, level, config.LEVELS), channels).to(tl.int32)
        channel = (image % tiles_c).to(config.INDEX) * channels
        image = image // tiles_c
    return image.to(tl.int64), channel, location


@triton.jit
def level_shape(table, level, config: tl.constexpr, VECTORIZED: tl.constexpr):
    """(channels, locations) of a level, the contiguous one as a visible multiple of VEC."""
    VEC: tl.constexpr = config.VEC if VECTORIZED else 1
    channels = table_entry(table, CHANNELS, level, config.LEVELS).to(config.INDEX)
    locations = table_entry(table, LOCATIONS, level, config.LEVELS).to(config.INDEX)
    if config.LAYOUT == LOCATION_MAJOR:
        locations = locations // VEC * VEC
    if config.LAYOUT == CHANNEL_MAJOR:
        channels = channels // VEC * VEC
    return channels, locations


@triton.jit
def channel_and_location_stride(stride, flags, config: tl.constexpr, VECTORIZED: tl.constexpr):
    """(stride_c, stride_l) of a tensor: one is 1, the other ``stride``, a visible multiple of VEC."""
    VEC: tl.constexpr = config.VEC if VECTORIZED else 1
    stride_c = stride.to(config.INDEX) // VEC * VEC
    stride_l = stride_c
    if config.LAYOUT == LOCATION_MAJOR:
        stride_l = tl.full([], 1, config.INDEX)
    if config.LAYOUT == CHANNEL_MAJOR:
        stride_c = tl.full([], 1, config.INDEX)
    if config.LAYOUT == MIXED_LAYOUTS:
        channel_major = (flags & FLAG_CHANNEL_MAJOR) != 0
        stride_c = tl.where(channel_major, 1, stride_c)
        stride_l = tl.where(channel_major, stride_l, 1)
    return stride_c, stride_l


@triton.jit
def input_view(
    table, column: tl.constexpr, DTYPE: tl.constexpr, level, image, flags,
    config: tl.constexpr, VECTORIZED: tl.constexpr,
):  # fmt: skip
    """(pointer to the image, stride_c, stride_l) of the student or teacher [B, C, L] in this column."""
    pointer = table_entry(table, column, level, config.LEVELS).to(tl.pointer_type(DTYPE))
    pointer += image * table_entry(table, column + 1, level, config.LEVELS)
    stride = table_entry(table, column + 2, level, config.LEVELS)
    stride_c, stride_l = channel_and_location_stride(stride, flags, config, VECTORIZED)
    return pointer, stride_c, stride_l


@triton.jit
def grad_view(table, level, image, flags, config: tl.constexpr, VECTORIZED: tl.constexpr):
    """(pointer to the image, stride_c, stride_l) of the gradient [B, C, L], which is dense."""
    pointer = table_entry(table, GRAD, level, config.LEVELS).to(tl.pointer_type(config.STUDENT_DTYPE))
    channels = table_entry(table, CHANNELS, level, config.LEVELS)
    locations = table_entry(table, LOCATIONS, level, config.LEVELS)
    stride = locations
    if config.LAYOUT == CHANNEL_MAJOR:
        stride = channels
    if config.LAYOUT == MIXED_LAYOUTS:
        stride = tl.where((flags & FLAG_CHANNEL_MAJOR) != 0, channels, locations)
    stride_c, stride_l = channel_and_location_stride(stride, flags, config, VECTORIZED)
    return pointer + image * channels * locations, stride_c, stride_l


@triton.jit
def block_pointers(view, channel, location, config: tl.constexpr, VECTORIZED: tl.constexpr):
    """Pointers [BLOCK_C, BLOCK_L] to a block: its first element is addressed in 64 bits, the others by INDEX
    offsets from it."""
    pointer, stride_c, stride_l = view
    first = pointer + (channel * stride_c.to(tl.int64) + location * stride_l.to(tl.int64))
    if VECTORIZED:
        first = tl.multiple_of(first, 16)
    BLOCK_C: tl.constexpr = config.BLOCK_C if VECTORIZED else config.UNALIGNED_BLOCK_C
    offs_c = tl.arange(0, BLOCK_C).to(config.INDEX)[:, None]
    offs_l = tl.arange(0, config.BLOCK_L).to(config.INDEX)[None, :]
    return first + (offs_c * stride_c + offs_l * stride_l)


@triton.jit
def load_block(
    view, channel, channels, location, readable, PADDING: tl.constexpr,
    config: tl.constexpr, VECTORIZED: tl.constexpr,
):  # fmt: skip
    """A block [BLOCK_C, BLOCK_L] that is read for the last time: the L2 cache may evict it first.

    Channels from ``channels`` on, and locations that are not ``readable`` [1, BLOCK_L], are PADDING.
    """
    BLOCK_C: tl.constexpr = config.BLOCK_C if VECTORIZED else config.UNALIGNED_BLOCK_C
    inside = (channel + tl.arange(0, BLOCK_C) < channels)[:, None] & readable
    pointers = block_pointers(view, channel, location, config, VECTORIZED)
    return tl.load(pointers, mask=inside, other=PADDING, eviction_policy="evict_first")


@triton.jit
def load_mask(table, level, image, location, nonzero_z, config: tl.constexpr):
    """S [BLOCK_L]; 0 past the last location, and everywhere in a level whose normalizer is 0."""
    pointer = table_entry(table, MASK, level, config.LEVELS).to(tl.pointer_type(config.ACC))
    locations = table_entry(table, LOCATIONS, level, config.LEVELS)
    pointer += image * locations + location
    offs_l = tl.arange(0, config.BLOCK_L).to(config.INDEX)
    return tl.load(pointer + offs_l, mask=location + offs_l < tl.where(nonzero_z, locations, 0), other=0.0)
