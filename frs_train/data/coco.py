"""COCO annotation files: read once and checked record by record, so that later code can trust them.

Images and annotations are columns of arrays, not objects: reading a Python object writes its reference count,
so every loader process would end up with its own copy of the memory pages that it shares with the training
process.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from frs_train.data.annotation_file import (
    LONGEST_SIDE,
    AnnotationRecord,
    CategoryRecord,
    Content,
    ImageRecord,
    read_content,
)
from frs_train.errors import UserError

NARROWEST = 2.0**-21  # share of the image's side: a narrower box may vanish when it is flipped and resized


class Images(Sequence):
    """The images of a file; indexing builds the record (id, file_name, width, height) of one."""

    def __init__(self, records: list[ImageRecord]):
        self.ids = np.array([r["id"] for r in records], dtype=np.int64)
        self.names = np.array([r["file_name"] for r in records], dtype=np.dtypes.StringDType())
        self.sizes = np.array([(r["width"], r["height"]) for r in records], dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> ImageRecord:  # pyright: ignore[reportIncompatibleMethodOverride]  # no slices
        width, height = self.sizes[index].tolist()
        name = str(self.names[index])
        return {"id": int(self.ids[index]), "file_name": name, "width": width, "height": height}


@dataclass(frozen=True)
class Annotations:
    """Annotations as columns, sorted by image."""

    starts: np.ndarray
    """int64 [images + 1]: image i has the rows starts[i] to starts[i + 1]."""
    category: np.ndarray
    """int64 [n]: category ids."""
    bbox: np.ndarray
    """float64 [n, 4]: x, y, width, height as in the file, for evaluation."""
    boxes: np.ndarray
    """float32 [n, 4]: x1, y1, x2, y2 clamped to the image, for training."""
    area: np.ndarray
    """float64 [n]: area of the object in pixels; that of its box where the file has none."""
    crowd: np.ndarray
    """bool [n]: marked "iscrowd"."""
    ignore: np.ndarray
    """bool [n]: marked "ignore"."""

    @property
    def learnt(self) -> np.ndarray:
        """bool [n]: neither mark. The others are not trained on, and detecting them is not scored as a
        mistake."""
        return ~(self.crowd | self.ignore)

    def of(self, image: int) -> slice:
        """The rows of an image."""
        return slice(int(self.starts[image]), int(self.starts[image + 1]))


@dataclass(frozen=True)
class CocoFile:
    """A checked annotation file."""

    name: str
    """What was read, for messages: the path of the file, and the split if it has several."""
    images: Images
    categories: list[CategoryRecord]
    annotations: Annotations
    dropped: int = 0
    """Degenerate boxes that were left out (see `clamped`)."""
    unused: tuple[str, ...] = ()
    """Categories that were left out: they have no annotations, and the name of another category."""

    @property
    def classes(self) -> list[str]:
        """Category names in the order of their ids: label k of a detector is `classes[k - 1]`."""
        return [c["name"] for c in self.categories]

    @property
    def empty(self) -> int:
        """How many images have no box to learn."""
        before = np.concatenate([[0], np.cumsum(self.annotations.learnt)])
        return int(np.count_nonzero(np.diff(before[self.annotations.starts]) == 0))

    @property
    def by_image(self) -> dict[int, list[dict[str, Any]]]:
        """The annotations by image id as COCO records for an evaluation, whose only mark is "iscrowd"."""
        a = self.annotations
        owners = np.repeat(self.images.ids, np.diff(a.starts))
        columns = (owners, a.category, a.bbox, a.area, (~a.learnt).astype(int))
        names = ("image_id", "category_id", "bbox", "area", "iscrowd")
        by_image = defaultdict(list)
        for row, values in enumerate(zip(*(c.tolist() for c in columns), strict=True), start=1):
            by_image[values[0]].append({"id": row, **dict(zip(names, values, strict=True))})
        return dict(by_image)

    def summary(self) -> str:
        """One line for the log: the content of the file and what was left out."""
        a = self.annotations
        boxes, crowds, ignored = (int(np.count_nonzero(c)) for c in (a.learnt, a.crowd, a.ignore & ~a.crowd))
        text = f"{self.name}: {len(self.images)} images, {boxes} boxes, {len(self.categories)} classes"
        if crowds or ignored:
            text += f'; {crowds} crowds and {ignored} boxes marked "ignore" are neither learnt nor scored'
        if self.dropped:
            text += f"; dropped {self.dropped} degenerate boxes (no area, or outside their image)"
        if self.empty:
            text += f"; {self.empty} images have no boxes and are used as background"
        if self.unused:
            text += f"; left out {', '.join(self.unused)}: no annotations, and another category of that name"
        return text


def read_coco(path: Path) -> CocoFile:
    """Reads and checks an annotation file. Raises `UserError` naming the record that is wrong."""
    return checked(str(path), read_content(path))


def checked(name: str, content: Content) -> CocoFile:
    """The content of a file as columns. Raises `UserError` if its records contradict each other."""
    for kind in ("images", "categories"):
        if not content[kind]:
            raise UserError(f"{name} lists no {kind}: there is nothing to learn from it.")
    places = _places(name, content["images"], "image")
    known = _places(name, content["categories"], "category")
    for position, record in enumerate(content["annotations"]):
        place = f"{name}: annotation {position} (id {record.get('id')})"
        if record["image_id"] not in places:
            raise UserError(f"{place} is for image {record['image_id']}, which the file does not list.")
        if record["category_id"] not in known:
            raise UserError(
                f"{place} has the unknown category {record['category_id']}. The file's categories are "
                f"{_some(sorted(known))}: add the category or correct the record."
            )
    images = Images(content["images"])
    categories, unused = _named(name, content)
    owners = np.array([places[r["image_id"]] for r in content["annotations"]], dtype=np.int64)
    annotations, dropped = _columns(content["annotations"], owners, images.sizes)
    return CocoFile(name, images, categories, annotations, dropped, unused)


def _places(name: str, records: list[ImageRecord] | list[CategoryRecord], what: str) -> dict[int, int]:
    """Position by id."""
    places: dict[int, int] = {}
    for position, record in enumerate(records):
        first = places.setdefault(record["id"], position)
        if first != position:
            raise UserError(
                f"{name}: two {what} records, {first} and {position}, have the id {record['id']}. Give each "
                "record a unique id."
            )
    return places


def _named(name: str, content: Content) -> tuple[list[CategoryRecord], tuple[str, ...]]:
    """The categories in the order of their ids, one per name, and descriptions of those left out.

    Some exporters add a root category with the name of a class. It has no annotations and is not a class.
    """
    used = {record["category_id"] for record in content["annotations"]}
    kept: dict[str, CategoryRecord] = {}
    unused = []
    for category in sorted(content["categories"], key=lambda c: (c["id"] not in used, c["id"])):
        first = kept.setdefault(category["name"], category)
        if first is category:
            continue
        if category["id"] in used:
            raise UserError(
                f"{name}: the categories {first['id']} and {category['id']} are both called "
                f"{category['name']!r} and both have annotations. Give each a unique name, or both one id."
            )
        unused.append(f"category {category['id']} ({category['name']!r})")
    return sorted(kept.values(), key=lambda c: c["id"]), tuple(unused)


def _columns(
    records: list[AnnotationRecord], owners: np.ndarray, sizes: np.ndarray
) -> tuple[Annotations, int]:
    """The annotations without degenerate boxes, and the number of degenerate ones."""
    bbox = np.array([r["bbox"] for r in records], dtype=np.float64).reshape(-1, 4)
    boxes, usable = clamped(bbox, sizes[owners])
    rows = np.argsort(owners, kind="stable")
    rows = rows[usable[rows]]
    given = np.array([r.get("area") or 0 for r in records], dtype=np.float64)[rows]
    bbox = bbox[rows]
    annotations = Annotations(
        starts=np.searchsorted(owners[rows], np.arange(len(sizes) + 1)),
        category=np.array([r["category_id"] for r in records], dtype=np.int64)[rows],
        bbox=bbox,
        boxes=boxes[rows],
        area=np.where(given > 0, given, bbox[:, 2] * bbox[:, 3]),
        crowd=np.array([bool(r.get("iscrowd")) for r in records], dtype=bool)[rows],
        ignore=np.array([bool(r.get("ignore")) for r in records], dtype=bool)[rows],
    )
    return annotations, len(records) - len(rows)


def clamped(bbox: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes x, y, width, height [n, 4] as corners inside their images (width, height: [n, 2]), in float32.

    The second array, bool [n], marks the usable boxes. The others are degenerate: a number is not finite or
    exceeds `LONGEST_SIDE`, or the part inside the image is narrower or lower than `NARROWEST` of the image.
    """
    sane = np.all(np.abs(bbox) <= LONGEST_SIDE, axis=1)
    corners = np.where(sane[:, None], bbox, 0)
    corners[:, 2:] += corners[:, :2]
    boxes = np.clip(corners, 0, np.tile(sizes, 2)).astype(np.float32)
    return boxes, sane & np.all(boxes[:, 2:] - boxes[:, :2] > NARROWEST * sizes, axis=1)


def _some(values: list, most: int = 20) -> str:
    return f"{values[:most]}" + (f" and {len(values) - most} more" if len(values) > most else "")


def match_classes(coco: CocoFile, classes: list[str], name: str) -> CocoFile:
    """The file with its categories in the order of the detector's classes.

    Raises `UserError` if the file has a class that the detector (called `name` in the message) was not
    trained on.
    """
    unknown = sorted(set(coco.classes) - set(classes))
    if unknown:
        raise UserError(
            f"{coco.name} has the category {unknown[0]!r}, which {name} was not trained on: its classes are "
            f"{', '.join(classes)}. Evaluate it on a file with these categories."
        )
    by_name = {c["name"]: c for c in coco.categories}
    taken = {c["id"] for c in coco.categories}
    spare = (number for number in itertools.count(1) if number not in taken)
    ordered = [by_name.get(name) or {"id": next(spare), "name": name} for name in classes]
    return replace(coco, categories=ordered)
