"""The preparation of pictures for an exported network equals that of the detector."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_detectors import tiny
from torch.nn.functional import interpolate

from frs_train.detectors.canvas import bilinear, fitted, place, resized, smallest

SIDES = st.integers(1, 300)


@pytest.fixture(scope="module")
def detector():
    return tiny("fcos", head_convs=0, min_size=(64,), max_size=100).eval()


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 1000))
def test_bilinear_equals_torch(height, width, new_height, new_width, seed):
    picture = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    wanted = interpolate(picture[None], (new_height, new_width), mode="bilinear")[0]
    found = torch.from_numpy(bilinear(picture.numpy(), (new_height, new_width)))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)  # one rounding of a coordinate


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES)
def test_size_is_that_of_the_detector(detector, height, width):
    batch, _ = detector.prepare([torch.zeros(3, height, width)], None, None)
    size = resized(height, width, 64, 100)
    assert size == batch.image_sizes[0]
    assert smallest([(height, width)], 64, 100) == tuple(batch.tensors.shape[-2:])
    assert fitted(height, width, 64, 100, smallest([(height, width)], 64, 100)) == size


def test_pixels_are_those_of_the_detector(detector):
    picture = torch.rand(3, 70, 180)
    batch, _ = detector.prepare([picture], None, None)
    canvas = tuple(batch.tensors.shape[-2:])
    placed, size = place(picture.numpy(), 64, 100, canvas)
    assert placed.shape == (3, *canvas) and size == batch.image_sizes[0] == (38, 100)
    wanted = detector.model.transform.normalize(torch.from_numpy(placed[:, :38, :100]))
    torch.testing.assert_close(wanted, batch.tensors[0, :, :38, :100], rtol=1e-4, atol=1e-4)
    assert not placed[:, 38:].any() and not placed[:, :, 100:].any()


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(1, 6), st.integers(1, 6))
def test_a_picture_fits_any_canvas_and_fills_one_side_of_a_small_one(height, width, rows, columns):
    canvas = 32 * rows, 32 * columns
    placed, size = place(np.ones((3, height, width), np.float32), 64, 100, canvas)
    assert placed.sum() == pytest.approx(3 * size[0] * size[1])
    assert 1 <= size[0] <= canvas[0] and 1 <= size[1] <= canvas[1]
    usual = resized(height, width, 64, 100)
    if size != usual:
        assert size[0] >= canvas[0] - 1 or size[1] >= canvas[1] - 1
        assert size[0] <= usual[0] and size[1] <= usual[1]


def test_the_smallest_canvas_holds_pictures_of_both_orientations():
    assert smallest([(480, 640), (640, 480), (100, 100)], 800, 1333) == (1088, 1088)
    assert smallest([(1080, 1920)], 800, 1333) == (768, 1344)
