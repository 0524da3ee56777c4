"""The mask of all levels, S = sigmoid(max_k T_k), with the partial sums of S that N_l is made of."""

import triton
import triton.language as tl

from frs_kernels.backends.triton.tiles import (
    ALIGNED,
    FLAGS,
    LOCATIONS,
    TEACHER,
    WEIGHT,
    block,
    extent,
    field,
    input_view,
    largest,
    place,
    row_of,
    sigmoid,
)

ADD = tl.constexpr(4096)  # weights that one program of weight_sums adds
SUM_ADDRESS, SUM_ELEMENTS, SUM_COLUMNS = (tl.constexpr(i) for i in (1, 2, 3))  # of its table


@triton.jit
def peaks(table, level, image, location, term: tl.constexpr, WIDE: tl.constexpr):
    """max_k T_k of BL locations, NaN where a T_k is."""
    BC: tl.constexpr = term.BC if WIDE else term.NARROW_BC
    flags = field(table, FLAGS, level, term.ROWS)
    channels, locations = extent(table, level, term, WIDE)
    view = input_view(table, TEACHER, term.TEACHER, level, image, flags, term, WIDE)
    here = (location + tl.arange(0, term.BL) < locations)[None, :]
    peak = tl.full([BC, term.BL], float("-inf"), term.ACC)
    for c in tl.range(0, channels, BC, num_stages=term.STAGES if WIDE else 1):
        inside = (c + tl.arange(0, BC) < channels)[:, None] & here
        t = tl.load(block(view, c, location, term, WIDE), mask=inside, other=float("-inf")).to(term.ACC)
        peak = tl.maximum(peak, t, propagate_nan=tl.PropagateNan.ALL)
    return largest(peak)


@triton.jit(do_not_specialize=["sums"])
def mask_kernel(table, sums, term: tl.constexpr):
    """Writes S of one image's BL locations, and their sum to ``sums`` unless that is None.

    The last tiles come first: those of small levels, which are narrow and slow and would else run alone.
    """
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    level = row_of(table, tile, term.ROWS)
    image, _, location = place(table, level, tile, None, term)
    if term.ALL_ALIGNED:
        peak = peaks(table, level, image, location, term, True)
    elif (field(table, FLAGS, level, term.ROWS) & ALIGNED) != 0:
        peak = peaks(table, level, image, location, term, True)
    else:
        peak = peaks(table, level, image, location, term, False)
    locations = field(table, LOCATIONS, level, term.ROWS)
    i = location + tl.arange(0, term.BL)
    richness = tl.where(i < locations, sigmoid(peak), 0.0)
    pointer = field(table, WEIGHT, level, term.ROWS).to(tl.pointer_type(term.ACC)) + image * locations
    tl.store(pointer + i, richness, mask=i < locations)
    if sums is not None:
        tl.store(sums + tile, tl.sum(richness, axis=0))


@triton.jit(do_not_specialize=["sums"])
def weight_sums(table, sums, ROWS: tl.constexpr, ACC: tl.constexpr):
    """The partial sums of given weights. Rows: first program, address, elements."""
    tile = tl.program_id(0)
    level = row_of(table, tile, ROWS, SUM_COLUMNS)
    i = (tile - field(table, 0, level, ROWS, SUM_COLUMNS)) * ADD + tl.arange(0, ADD)
    pointer = field(table, SUM_ADDRESS, level, ROWS, SUM_COLUMNS).to(tl.pointer_type(ACC))
    weights = tl.load(pointer + i, mask=i < field(table, SUM_ELEMENTS, level, ROWS, SUM_COLUMNS), other=0.0)
    tl.store(sums + tile, tl.sum(weights, axis=0))
