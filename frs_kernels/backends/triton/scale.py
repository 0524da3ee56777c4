"""The backward: gradients times a factor that only the device knows."""

import triton
import triton.language as tl

from frs_kernels.backends.triton.tiles import field, row_of

PROGRAMS = 2048  # enough to fill any GPU; few enough that 2048 programs which find a factor of 1 cost little
SPAN = tl.constexpr(2048)  # elements that a program takes at a time
# Columns: first span of the tensor, address, elements, its entry of ``pending``.
SPAN_START, ADDRESS, ELEMENTS, ENTRY = (tl.constexpr(i) for i in range(4))
COLUMNS = tl.constexpr(4)


@triton.jit(do_not_specialize=["factor", "pending", "spans"])
def scale_kernel(
    table, factor, pending, spans,
    ROWS: tl.constexpr, ENTRIES: tl.constexpr, ALIGNED: tl.constexpr, DTYPE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """g *= factor * pending[entry], in place; tensors for which the product is 1 are not touched."""
    entries = tl.arange(0, triton.next_power_of_2(ENTRIES))
    products = tl.load(factor) * tl.load(pending + entries, mask=entries < ENTRIES, other=0.0)
    moves = (products != 1.0) & (entries < ENTRIES)
    if tl.max(moves.to(tl.int32), axis=0) > 0:
        for span in range(tl.program_id(0), spans, tl.num_programs(0)):
            scale_span(table, factor, pending, span, ROWS, ALIGNED, DTYPE, ACC)


@triton.jit
def scale_span(
    table, factor, pending, span,
    ROWS: tl.constexpr, ALIGNED: tl.constexpr, DTYPE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """SPAN elements of one tensor, of which only the tensor's last span may be partly filled."""
    row = row_of(table, span, ROWS, COLUMNS)
    scale = tl.load(factor) * tl.load(pending + field(table, ENTRY, row, ROWS, COLUMNS))
    if scale != 1.0:
        first = (span - field(table, SPAN_START, row, ROWS, COLUMNS)) * SPAN
        last = field(table, ELEMENTS, row, ROWS, COLUMNS)
        pointer = field(table, ADDRESS, row, ROWS, COLUMNS).to(tl.pointer_type(DTYPE)) + first
        i = tl.arange(0, SPAN)
        if first + SPAN <= last:
            if ALIGNED:
                pointer = tl.multiple_of(pointer, 16)
            pointers = pointer + i
            tl.store(pointers, (tl.load(pointers).to(ACC) * scale).to(DTYPE))
        else:
            inside = first + i < last
            values = tl.load(pointer + i, mask=inside)
            tl.store(pointer + i, (values.to(ACC) * scale).to(DTYPE), mask=inside)
