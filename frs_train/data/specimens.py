"""Pictures on which an exported detector is checked: of a data set, of a folder, or random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from frs_train.data.dataset import CocoDetection
from frs_train.data.images import image_size, read_image
from frs_train.data.loader import collate, to_device
from frs_train.errors import UserError

MOST = 8
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
RANDOM_SHAPES = ((240, 320), (320, 240), (256, 256), (180, 320))


@dataclass(frozen=True)
class Specimens:
    """A few pictures, and the sizes of all that they were taken from."""

    pictures: list[Tensor]
    """At most `MOST` images float32 [3, h, w] in 0..1."""
    sizes: list[tuple[int, int]]
    """(height, width) of every picture there; empty if the pictures are random."""


def from_dataset(data: CocoDetection) -> Specimens:
    """The first pictures of a data set. Raises `UserError` if one cannot be read."""
    samples = collate([data[index, None] for index in range(min(MOST, len(data)))])
    pictures, _ = to_device(samples, torch.device("cpu"))
    return Specimens(pictures, [(height, width) for width, height in data.coco.images.sizes.tolist()])


def from_folder(folder: Path) -> Specimens:
    """The first pictures of a folder in the order of their names.

    Raises `UserError` if there is none, or one cannot be read.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"There is no picture in {folder}, that is, no file of type {', '.join(SUFFIXES)}.")
    sizes = [image_size(path) for path in paths]
    chosen = list(zip(paths, sizes, strict=True))[:MOST]
    pictures = [read_image(path, *size).as_subclass(Tensor).float().div(255) for path, size in chosen]
    return Specimens(pictures, [(height, width) for width, height in sizes])


def random_pictures(count: int = MOST) -> Specimens:
    """Random pictures of several shapes, in which colours change gradually as in photographs."""
    random = torch.Generator().manual_seed(0)
    shapes = [RANDOM_SHAPES[number % len(RANDOM_SHAPES)] for number in range(count)]
    coarse = [torch.rand(1, 3, height // 20, width // 20, generator=random) for height, width in shapes]
    grow = torch.nn.functional.interpolate
    return Specimens([grow(c, s, mode="bilinear")[0] for c, s in zip(coarse, shapes, strict=True)], [])
