"""The fixed input of an exported network, on which a picture is resized and placed.

A detector resizes a picture so that its shorter side is `min_size` and its longer one at most `max_size`, and
pads it at the right and bottom. An exported network does the same with one difference: its input, the canvas,
has a fixed size. A picture that does not fit is scaled down further.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from frs_train.config import MULTIPLE


def resized(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """The size (height, width) to which a detector resizes a picture: the aspect ratio is kept, and sides are
    rounded down, as torchvision does."""
    return _scaled(height, width, min(min_size / min(height, width), max_size / max(height, width)))


def fitted(height: int, width: int, min_size: int, max_size: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """The size (height, width) to which a picture is resized for a canvas: `resized`, or less to fit."""
    size = resized(height, width, min_size, max_size)
    if size[0] <= canvas[0] and size[1] <= canvas[1]:
        return size
    return _scaled(height, width, min(canvas[0] / height, canvas[1] / width))


def smallest(sizes: Iterable[tuple[int, int]], min_size: int, max_size: int) -> tuple[int, int]:
    """The smallest canvas that holds pictures of these sizes (height, width) as a detector resizes them."""
    sides = zip(*(resized(*size, min_size, max_size) for size in sizes), strict=True)
    height, width = (math.ceil(max(side) / MULTIPLE) * MULTIPLE for side in sides)
    return height, width


def _scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))


def place(
    picture: np.ndarray, min_size: int, max_size: int, canvas: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int]]:
    """A picture float32 [3, h, w], resized and placed at the top left of a canvas: float32 [3, H, W].

    The rest of the canvas is 0; the network ignores it. Also returns the size of the resized picture (height,
    width), which is the network's second input.
    """
    size = fitted(*picture.shape[1:], min_size, max_size, canvas)
    placed = np.zeros((len(picture), *canvas), np.float32)
    placed[:, : size[0], : size[1]] = bilinear(picture, size)
    return placed, size


def bilinear(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture float32 [C, h, w] resized to a size (height, width) by bilinear interpolation of the nearest
    four pixels, like torch's `interpolate` and OpenCV's `INTER_LINEAR`. Pillow averages more pixels where it
    scales down."""
    for axis, length in ((1, size[0]), (2, size[1])):
        before = picture.shape[axis]
        if before == length:
            continue
        ratio = np.float32(before / length)
        at = np.maximum((np.arange(length, dtype=np.float32) + np.float32(0.5)) * ratio - np.float32(0.5), 0)
        low = np.floor(at)
        weight = (at - low).reshape((-1, 1) if axis == 1 else (1, -1))
        low = np.minimum(low.astype(np.int64), before - 1)
        first, second = picture.take(low, axis), picture.take(np.minimum(low + 1, before - 1), axis)
        picture = first + weight * (second - first)
    return picture
