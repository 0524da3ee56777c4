"""The imitation term of one tile: sum S c (x - y)^2, and its gradient 2 S c (x - y)."""

import triton
import triton.language as tl

from frs_kernels.backends.triton.tiles import (
    ALIGNED,
    CHANNEL_WEIGHT,
    CHANNELS,
    FLAGS,
    STUDENT,
    TEACHER,
    block,
    extent,
    field,
    grad_view,
    input_view,
    load_once,
)


@triton.jit
def channel_factors(table, level, image, c, channels, term: tl.constexpr, WIDE: tl.constexpr):
    """c of BC channels of an image, as a column."""
    BC: tl.constexpr = term.BC if WIDE else term.NARROW_BC
    pointer = field(table, CHANNEL_WEIGHT, level, term.ROWS).to(tl.pointer_type(term.ACC))
    pointer += image * field(table, CHANNELS, level, term.ROWS)
    i = c + tl.arange(0, BC)
    return tl.load(pointer + i, mask=i < channels, other=0.0)[:, None]


@triton.jit
def squared_error(
    table, level, image, first, last, location, factor, alive, term: tl.constexpr, WIDE: tl.constexpr
):
    """sum_c c (x - y)^2 of BL locations over channels [first, last); stores 2 ``factor`` c (x - y).

    A level that is not alive is not read: its error and gradient are 0.
    """
    BC: tl.constexpr = term.BC if WIDE else term.NARROW_BC
    flags = field(table, FLAGS, level, term.ROWS)
    channels, locations = extent(table, level, term, WIDE)
    student = input_view(table, STUDENT, term.STUDENT, level, image, flags, term, WIDE)
    teacher = input_view(table, TEACHER, term.TEACHER, level, image, flags, term, WIDE)
    if term.GRAD:
        grad = grad_view(table, level, image, flags, term, WIDE)
    i = location + tl.arange(0, term.BL)
    here, readable = (i < locations)[None, :], (i < tl.where(alive, locations, 0))[None, :]
    error = tl.full([BC, term.BL], 0.0, term.ACC)
    for c in tl.range(first, tl.minimum(last, channels), BC, num_stages=term.STAGES if WIDE else 1):
        x = load_once(student, c, channels, location, readable, 0.0, term, WIDE).to(term.ACC)
        y = load_once(teacher, c, channels, location, readable, 0.0, term, WIDE).to(term.ACC)
        difference = x - y
        weighted = difference
        if term.CHANNEL_WEIGHTS:
            weighted *= channel_factors(table, level, image, c, tl.where(alive, channels, 0), term, WIDE)
        error += weighted * difference
        if term.GRAD:
            gradient = (2.0 * factor[None, :] * weighted).to(term.STUDENT)
            inside = (c + tl.arange(0, BC) < channels)[:, None] & here
            tl.store(
                block(grad, c, location, term, WIDE), gradient, mask=inside, eviction_policy="evict_first"
            )
    return tl.sum(error, axis=0)


@triton.jit
def imitation(table, level, image, first, last, location, factor, alive, term: tl.constexpr):
    """:func:`squared_error`, with wide accesses where the level allows them."""
    if term.ALL_ALIGNED:
        error = squared_error(table, level, image, first, last, location, factor, alive, term, True)
    elif (field(table, FLAGS, level, term.ROWS) & ALIGNED) != 0:
        error = squared_error(table, level, image, first, last, location, factor, alive, term, True)
    else:
        error = squared_error(table, level, image, first, last, location, factor, alive, term, False)
    return error
