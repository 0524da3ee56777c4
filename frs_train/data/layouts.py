"""The layouts of data sets: where in a folder the annotations and the images of a split are."""

from __future__ import annotations

import os
from pathlib import Path

from frs_train.data.coco import CocoFile, read_coco
from frs_train.data.yolo import NAMES, read_yolo
from frs_train.errors import UserError
from frs_train.log import Log
from frs_train.text import printable, shortened

COCO = (
    ("{}.json", "images"),
    ("{}/_annotations.coco.json", "{}"),
    ("annotations/instances_{}2017.json", "{}2017"),
)
"""Annotation file and folder of the images, by the name of a split: plain, Roboflow's export, and COCO."""
YOLO = ("data.yaml", "data.yml")


def read_split(
    log: Log,
    data: Path | None,
    split: str,
    annotations: Path | None = None,
    images: Path | None = None,
    prefix: str = "",
) -> tuple[CocoFile, Path]:
    """The annotations of a split, and the folder that the names of its images are relative to.

    Args:
        data: a folder of a known layout, or the YAML file of a YOLO data set.
        split: train, val or test.
        annotations: a COCO file, instead of that of the folder.
        images: a folder of images, instead of that of the folder.
        prefix: of the options for `annotations` and `images` in messages.

    Raises:
        UserError: the folder has no known layout, or what it names is wrong.
    """
    options = f"--{prefix}annotations and --{prefix}images"
    if annotations is None or images is None:
        if data is None:
            raise UserError(f"--data is missing: the folder of a data set. Or give both {options}.")
        found, folder = _find(data, split, options)
        if folder is None:
            if annotations or images:
                raise UserError(
                    f"{found} names images and boxes together: give both {options} instead, or neither."
                )
            return read_yolo(found, split, log)
        annotations, images = annotations or found, images or folder
    return read_coco(annotations), images


def _find(data: Path, split: str, options: str) -> tuple[Path, Path | None]:
    """The annotation file of a split and the folder of its images, or the YAML file of a YOLO data set and
    None."""
    if data.suffix in (".yaml", ".yml") and data.is_file():
        return data, None
    if not data.is_dir():
        problem = "is not a folder" if data.exists() else "does not exist"
        raise UserError(f"--data {data} {problem}. Give the folder of a data set.")
    known: list[tuple[str, str | None]] = [
        (annotations.format(name), images.format(name))
        for annotations, images in COCO
        for name in NAMES[split]
    ]
    known += [(name, None) for name in YOLO]
    found = [pair for pair in known if (data / pair[0]).is_file()]
    if not found:
        raise UserError(
            f"{data} has no annotations of the split {split!r} in a known place. Looked for: "
            f"{', '.join(name for name, _ in known)}. Found: {_listing(data)}. Give both {options} instead."
        )
    if len(found) > 1:
        raise UserError(
            f"{data} has annotations of the split {split!r} in {len(found)} places: "
            f"{', '.join(name for name, _ in found)}. Say which with {options}, or give the YAML file as "
            "--data."
        )
    annotations, images = found[0]
    return data / annotations, None if images is None else data / images


def _listing(folder: Path, most: int = 12) -> str:
    """The first names in a folder, in words."""
    try:
        names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(folder))
    except OSError as error:
        return f"nothing, for it cannot be read ({error.strerror})"
    shown = [shortened(printable(name)) for name in names[:most]]
    rest = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join(shown + rest) or "nothing"
