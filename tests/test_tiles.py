"""How the CUDA kernels divide levels of any size into tiles (csrc/include/frs/tiles.h): all of them, once."""

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

host = pytest.importorskip("frs_kernels._host", reason="_host is not built")

WARPS = 8  # of a block, tiles.h: kWarps
WIDTHS = (2, 4, 8)  # elements of a vector: float64; float32; the 16-bit types


def term(width):
    """(batch, rows, columns, vectorized) of a term of one level. Vectorized rows are whole vectors."""
    extent = st.integers(0, 70)
    elements = st.tuples(st.integers(0, 3), extent, st.integers(0, 600), st.just(False))
    columns = st.integers(0, 80).map(lambda n: n * width)
    return elements | st.tuples(st.integers(0, 3), extent, columns, st.just(True))


def visits(terms, width) -> Counter:
    """How often a launch of the loss kernel over these terms visits each (term, batch, row, column)."""
    counts = Counter()
    for index, batch, row_begin, row_end, column, lanes in host.warp_tiles(terms, width):
        if row_begin == row_end:
            continue
        _, _, columns, vectorized = terms[index]
        for lane in host.lane_columns(column, columns, lanes, width, vectorized):
            counts.update((index, batch, row, c) for row in range(row_begin, row_end) for c in lane)
    return counts


@pytest.mark.parametrize("width", WIDTHS)
@given(data=st.data())
def test_every_element_is_visited_exactly_once(width, data):
    terms = data.draw(st.lists(term(width), min_size=1, max_size=6))
    counts = visits(terms, width)
    expected = {
        (index, b, r, c)
        for index, (batch, rows, columns, _) in enumerate(terms)
        for b in range(batch) for r in range(rows) for c in range(columns)
    }  # fmt: skip
    assert set(counts) == expected
    assert not expected or max(counts.values()) == 1


@pytest.mark.parametrize("width", WIDTHS)
@given(columns=st.integers(1, 100_000), data=st.data())
@example(columns=1, data=None)
def test_vectors_are_inside_or_outside_as_a_whole(width, columns, data):
    columns *= width
    first = 0 if data is None else data.draw(st.integers(0, columns // width - 1)) * width
    for lane in host.lane_columns(first, columns, 32, width, True):
        assert len(lane) in (0, width)
        assert not lane or (lane[0] % width == 0 and lane == list(range(lane[0], lane[0] + width)))


@given(terms=st.lists(term(8), max_size=8))
def test_a_block_belongs_to_one_term_and_terms_come_in_order(terms):
    tiles = host.warp_tiles(terms, 8) if terms else []
    assert len(tiles) % WARPS == 0
    indices = [index for index, *_ in tiles]
    assert indices == sorted(indices)
    for block in range(0, len(indices), WARPS):
        assert len(set(indices[block : block + WARPS])) == 1


@pytest.mark.parametrize("width", WIDTHS)
@given(data=st.data())
def test_the_warp_tiles_of_an_image_are_adjacent_and_as_many_as_of_another(width, data):
    """Where the kernel finds an image's partial sums: tiles_per_image of them, image after image."""
    terms = data.draw(st.lists(term(width), min_size=1, max_size=6))
    counts = host.tiles_per_image(terms, width)
    images = [[] for _ in terms]
    for index, batch, row_begin, row_end, *_ in host.warp_tiles(terms, width):
        images[index].append(batch if row_begin < row_end else None)
    for (batch, rows, columns, _), count, of_tiles in zip(terms, counts, images, strict=True):
        used = [image for image in range(batch) for _ in range(count)]
        assert of_tiles[: len(used)] == used
        assert set(of_tiles[len(used) :]) <= {None} and len(of_tiles) - len(used) < WARPS
        assert bool(used) == (batch * rows * columns > 0)


@pytest.mark.parametrize("width", WIDTHS)
@given(data=st.data())
def test_a_channel_major_mask_tile_is_walked_through_in_step(width, data):
    """Each logit is loaded once. The lanes of a location leave it together, as shuffles over them require."""
    locations = data.draw(st.integers(1, 200))
    vectorized = data.draw(st.booleans())
    channels = data.draw(st.integers(0, 100)) * (width if vectorized else 7)
    size = 128 if width >= 4 else 64  # tiles.h: mask_tile_size
    begin = data.draw(st.integers(0, (locations - 1) // size)) * size
    threads = host.location_walk(locations, channels, begin, width, vectorized)
    loaded = Counter((row, c) for steps in threads for row, columns, _ in steps for c in columns)
    tile = range(begin, min(begin + size, locations))
    assert loaded == Counter((row, c) for row in tile for c in range(channels))
    ended = Counter(row for steps in threads for row, _, leaves in steps if leaves)
    assert set(ended) == set(range(begin, begin + size))
    (lanes,) = set(ended.values())
    for warp in range(0, len(threads), 32):
        for steps in zip(*threads[warp : warp + 32], strict=True):
            assert len({leaves for _, _, leaves in steps}) == 1
            rows = [row for row, _, _ in steps]
            assert all(len(set(rows[i : i + lanes])) == 1 for i in range(0, 32, lanes))


def test_large_calls_have_tall_tiles_and_small_ones_low_tiles():
    sizes = [100 * 168, 50 * 84, 25 * 42, 13 * 21, 7 * 11]
    retinanet = [(16, 256, n, n % 8 == 0) for n in sizes] + [(16, 720, n, n % 8 == 0) for n in sizes]
    large = host.warp_tiles(retinanet, 8)
    assert max(end - begin for _, _, begin, end, _, _ in large) == 32
    small = host.warp_tiles([(1, 256, 32 * 32, True), (1, 720, 32 * 32, True)], 8)
    assert max(end - begin for _, _, begin, end, _, _ in small) == 8


@pytest.mark.parametrize("columns, lanes", [(720, 32), (256, 32), (80, 4), (128, 16), (8, 4), (90, 32)])
def test_few_lanes_idle(columns, lanes):
    """On channels_last tensors. 90 channels are not whole vectors: a whole warp processes single elements."""
    (*_, chosen), *_ = host.warp_tiles([(1, 64, columns, columns % 8 == 0)], 8)
    assert chosen == lanes


def test_indices_stay_exact_beyond_32_bits_of_elements():
    """2^32 elements of one level, in 2^16 blocks: the last tile ends where the tensor does."""
    tiles = host.warp_tiles([(1, 2**9, 2**23, True)], 8)
    assert len(tiles) == 2**19
    assert max(end for _, _, _, end, _, _ in tiles) == 2**9
    assert max(column for *_, column, _ in tiles) == 2**23 - 256
