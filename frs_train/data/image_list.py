"""Image files without boxes: found from the arguments of a command, numbered, and read."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch
from torch.utils.data import Dataset

from frs_train.data.annotation_file import ImageRecord
from frs_train.data.coco import CocoFile
from frs_train.data.dataset import Sample
from frs_train.data.images import SUFFIXES, image_files, read_image, read_image_of_any_size
from frs_train.errors import UserError


@dataclass(frozen=True)
class ImageList(Dataset):
    """Image files with the ids and names that they have in results.

    Item i is an image uint8 [3, H, W] and a target with `index` i, or a `UserError` if the file cannot be
    read. Columns are arrays, which loader processes share with their parent (see `coco`).
    """

    files: np.ndarray
    """bytes [n]: paths, encoded by `os.fsencode`."""
    ids: np.ndarray
    """int64 [n]."""
    names: np.ndarray
    """bytes [n]: file names for results, encoded likewise."""
    sizes: np.ndarray | None = None
    """int64 [n, 2]: width and height that the images must have, if that is known."""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample | UserError:
        path = Path(os.fsdecode(self.files[index]))
        try:
            if self.sizes is None:
                image = read_image_of_any_size(path)
            else:
                image = read_image(path, *self.sizes[index].tolist())
        except UserError as error:
            return error
        return image.as_subclass(torch.Tensor), {"index": torch.tensor(index)}

    def record(self, index: int, width: int, height: int) -> ImageRecord:
        """The record of an image of this size."""
        name = os.fsdecode(self.names[index])
        return {"id": int(self.ids[index]), "file_name": name, "width": width, "height": height}


def numbered(files: Sequence[str]) -> ImageList:
    """The files in this order with the ids 1, 2, ... and their paths as names."""
    names = [PurePath(file).as_posix() for file in files]
    return ImageList(_encoded(files), np.arange(1, len(files) + 1), _encoded(names))


def matched(files: Sequence[str], coco: CocoFile) -> ImageList:
    """The files with the ids, names and sizes of an annotation file, in its order.

    A file is the image of the records whose `file_name` is the longest that its path ends with.

    Raises `UserError` if a file has no record, or two files have the same.
    """
    rows = defaultdict(list)
    for row, name in enumerate(coco.images.names.tolist()):
        rows[_parts(name)].append(row)
    owners: dict[int, str] = {}
    unknown = []
    for file in files:
        parts = _parts(os.path.abspath(file))
        found = next((rows[parts[first:]] for first in range(len(parts)) if parts[first:] in rows), None)
        if found is None:
            unknown.append(file)
            continue
        for row in found:
            if row in owners:
                raise UserError(
                    f"{owners[row]} and {file} are both the image {coco.images.names[row]!r} of {coco.name}. "
                    "Give only one of them."
                )
            owners[row] = file
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(files)} images are not in {coco.name}, the first is {unknown[0]}. The "
            "path of an image must end with the file_name of its record."
        )
    order = sorted(owners)
    ids, names = coco.images.ids[order], coco.images.names[order].tolist()
    return ImageList(_encoded([owners[row] for row in order]), ids, _encoded(names), coco.images.sizes[order])


def _encoded(texts: Sequence[str]) -> np.ndarray:
    return np.array([os.fsencode(text) for text in texts])


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path, as `find_image` compares them."""
    return PurePath(unicodedata.normalize("NFC", path.replace("\\", "/"))).parts


def find_images(arguments: Sequence[str]) -> list[str]:
    """The image files of arguments: files, folders (all image files below) and glob patterns, in this order.

    Raises `UserError` if an argument has no images, or an image is given twice.
    """
    files = [file for argument in arguments for file in _found(argument)]
    count = Counter(map(os.path.abspath, files))
    twice = [place for place, times in count.items() if times > 1]
    if twice:
        raise UserError(
            f"{len(twice)} of {len(count)} images are given more than once, the first is {twice[0]}. Give "
            "each once."
        )
    return files


def _found(argument: str) -> list[str]:
    if os.path.isfile(argument):
        return [argument]
    if os.path.isdir(argument):
        files, problem = list(image_files(Path(argument))), "has no image files"
    elif glob.has_magic(argument):
        files, problem = sorted(set(_matching(argument))), "matches no image files"
    else:
        raise UserError(f"Image {argument!r} does not exist. Give files, folders, or patterns in quotes.")
    if not files:
        endings = " ".join(sorted(SUFFIXES))
        raise UserError(f"{argument!r} {problem}. Their names end with one of: {endings}.")
    return files


def _matching(pattern: str) -> Iterator[str]:
    """The image files that match a pattern, and those below folders that match it."""
    for path in glob.iglob(pattern, recursive=True):
        if os.path.isdir(path):
            yield from image_files(Path(path))
        elif os.path.splitext(path)[1].lower() in SUFFIXES:
            yield path
