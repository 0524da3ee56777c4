"""How the CUDA kernels cut ragged levels into pieces (csrc/include/frs/tiles.h): everything exactly once."""

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

host = pytest.importorskip("frs_kernels._host", reason="_host is not built")

WARPS = 8  # of a block, tiles.h: kWarps
WIDTHS = (2, 4, 8)  # elements of a run: float64; float32; the 16-bit types


def term(width):
    """(batch, rows, columns, wide) of a term of one level; wide runs need columns that they divide."""
    extent = st.integers(0, 70)
    narrow = st.tuples(st.integers(0, 3), extent, st.integers(0, 600), st.just(False))
    wide = st.tuples(st.integers(0, 3), extent, st.integers(0, 80).map(lambda n: n * width), st.just(True))
    return narrow | wide


def visits(terms, width) -> Counter:
    """How often each (term, batch, row, column) is visited by the launch over these terms."""
    found = Counter()
    for index, batch, row_begin, row_end, column, lanes in host.gpu_pieces(terms, width):
        if row_begin == row_end:
            continue
        _, _, columns, wide = terms[index]
        for lane in host.lane_columns(column, columns, lanes, width, wide):
            found.update((index, batch, row, c) for row in range(row_begin, row_end) for c in lane)
    return found


@pytest.mark.parametrize("width", WIDTHS)
@given(data=st.data())
def test_every_element_is_visited_exactly_once(width, data):
    terms = data.draw(st.lists(term(width), min_size=1, max_size=6))
    found = visits(terms, width)
    expected = {
        (index, b, r, c)
        for index, (batch, rows, columns, _) in enumerate(terms)
        for b in range(batch) for r in range(rows) for c in range(columns)
    }  # fmt: skip
    assert set(found) == expected
    assert not expected or max(found.values()) == 1


@pytest.mark.parametrize("width", WIDTHS)
@given(columns=st.integers(1, 100_000), data=st.data())
@example(columns=1, data=None)
def test_wide_lanes_are_inside_or_outside_as_a_whole(width, columns, data):
    columns *= width
    first = 0 if data is None else data.draw(st.integers(0, columns // width - 1)) * width
    for lane in host.lane_columns(first, columns, 32, width, True):
        assert len(lane) in (0, width)
        assert not lane or (lane[0] % width == 0 and lane == list(range(lane[0], lane[0] + width)))


@given(terms=st.lists(term(8), max_size=8))
def test_a_block_belongs_to_one_term_and_terms_come_in_order(terms):
    pieces = host.gpu_pieces(terms, 8) if terms else []
    assert len(pieces) % WARPS == 0
    indices = [index for index, *_ in pieces]
    assert indices == sorted(indices)
    for block in range(0, len(indices), WARPS):
        assert len(set(indices[block : block + WARPS])) == 1


def blocks(terms, width):
    return len(host.gpu_pieces(terms, width)) // WARPS


def test_large_calls_have_long_pieces_and_small_ones_many():
    sizes = [100 * 168, 50 * 84, 25 * 42, 13 * 21, 7 * 11]
    retinanet = [(16, 256, n, n % 8 == 0) for n in sizes] + [(16, 720, n, n % 8 == 0) for n in sizes]
    large = host.gpu_pieces(retinanet, 8)
    assert max(end - begin for _, _, begin, end, _, _ in large) == 32
    small = host.gpu_pieces([(1, 256, 32 * 32, True), (1, 720, 32 * 32, True)], 8)
    assert max(end - begin for _, _, begin, end, _, _ in small) == 8


@pytest.mark.parametrize("columns, lanes", [(720, 32), (256, 32), (80, 4), (128, 16), (8, 4), (90, 32)])
def test_few_lanes_idle(columns, lanes):
    """On channels_last tensors; 90 channels are not whole runs: a whole warp deals with single elements."""
    wide = columns % 8 == 0
    (*_, chosen), *_ = host.gpu_pieces([(1, 64, columns, wide)], 8)
    assert chosen == lanes


def test_indices_stay_exact_beyond_32_bits_of_elements():
    """2^32 elements of one level, in 2^17 blocks: the last piece ends where the tensor does."""
    pieces = host.gpu_pieces([(1, 2**9, 2**23, True)], 8)
    assert len(pieces) == 2**19
    assert max(end for _, _, _, end, _, _ in pieces) == 2**9
    assert max(column for *_, column, _ in pieces) == 2**23 - 256
