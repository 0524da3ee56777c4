"""COCO annotation files: read once, checked record by record, so that later code may trust them."""

from __future__ import annotations

import contextlib
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from frs_train.errors import UserError


@dataclass(frozen=True)
class CocoFile:
    """A checked annotation file. Annotations have `area`, `iscrowd` and `id`, whatever the file left out."""

    path: Path
    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    by_image: dict[int, list[dict[str, Any]]]
    dropped: int
    """Degenerate boxes (no area, not finite, wholly outside their image) that were left out."""

    @property
    def classes(self) -> list[str]:
        """Category names in the order of their ids: label k of a detector is `classes[k - 1]`."""
        return [c["name"] for c in self.categories]

    @property
    def empty(self) -> int:
        """How many images have no box."""
        return sum(not self.by_image.get(image["id"]) for image in self.images)

    def summary(self) -> str:
        """One line for the log: what is in the file, and what was left out."""
        boxes = sum(map(len, self.by_image.values()))
        text = f"{self.path}: {len(self.images)} images, {boxes} boxes, {len(self.categories)} classes"
        if self.dropped:
            text += f"; dropped {self.dropped} degenerate boxes (no area, or outside their image)"
        if self.empty:
            text += f"; {self.empty} images have no boxes and are used as background"
        return text

    def api(self) -> COCO:
        """The same content as a pycocotools object, for evaluation."""
        coco = COCO()
        annotations = [a for records in self.by_image.values() for a in records]
        coco.dataset = {"images": self.images, "categories": self.categories, "annotations": annotations}
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco


def read_coco(path: Path) -> CocoFile:
    """Reads and checks an annotation file. Raises `UserError` naming the record that is wrong."""
    content = _load(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise UserError(
                f'{path} has no list "{key}". It must be a COCO detection file: images, annotations and '
                "categories."
            )
    images = _records(
        path, content["images"], "image", {"id": int, "file_name": str, "width": int, "height": int}
    )
    categories = _records(path, content["categories"], "category", {"id": int, "name": str})
    if not images or not categories:
        raise UserError(
            f"{path} lists no {'categories' if images else 'images'}: there is nothing to learn from it."
        )
    by_image, dropped = _annotations(path, content["annotations"], images, {c["id"] for c in categories})
    ordered = sorted(categories, key=lambda c: c["id"])
    return CocoFile(path, images, ordered, by_image, dropped)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"Annotation file {path} does not exist. Give the path of a COCO-format JSON file."
        ) from None
    except OSError as error:
        raise UserError(f"Annotation file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"Annotation file {path} is not UTF-8 text, so it is no JSON file.") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"Annotation file {path} is not valid JSON: {error.msg} at line {error.lineno}, column "
            f"{error.colno}. It may be cut off; write or download it again."
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"Annotation file {path} holds a JSON {type(content).__name__}, not a COCO object.")
    return content


def _records(path: Path, records: list, what: str, fields: dict[str, type]) -> list[dict[str, Any]]:
    """The records, each with the fields of the types given and an id of its own."""
    seen = set()
    for position, record in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(f"{path}: {what} {position} is not an object.")
        for name, kind in fields.items():
            if not isinstance(record.get(name), kind):
                raise UserError(
                    f'{path}: {what} {position} (id {record.get("id")}) needs "{name}" as {kind.__name__}, '
                    f"and has {record.get(name)!r}. Correct the record."
                )
        if record["id"] in seen:
            raise UserError(f"{path}: two {what} records have the id {record['id']}. Give each its own.")
        seen.add(record["id"])
    return records


def _annotations(
    path: Path, records: list, images: list, category_ids: set[int]
) -> tuple[dict[int, list], int]:
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    by_image: dict[int, list] = {}
    dropped = 0
    for position, record in enumerate(records):
        name = f"{path}: annotation {position}"
        if not isinstance(record, dict):
            raise UserError(f"{name} is not an object.")
        name += f" (id {record.get('id')})"
        if record.get("image_id") not in sizes:
            raise UserError(f"{name} is for image {record.get('image_id')}, which the file does not list.")
        if record.get("category_id") not in category_ids:
            raise UserError(
                f"{name} has the unknown category {record.get('category_id')}. The file's categories are "
                f"{sorted(category_ids)}: add the category or correct the record."
            )
        box = record.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)):
            raise UserError(f"{name} has the bbox {box!r}. It must be four numbers: x, y, width, height.")
        if degenerate(box, *sizes[record["image_id"]]):
            dropped += 1
            continue
        filled = {"area": box[2] * box[3], "iscrowd": 0, **record, "id": position + 1}
        by_image.setdefault(record["image_id"], []).append(filled)
    return by_image, dropped


def degenerate(box: list[float], width: int, height: int) -> bool:
    """Whether a box [x, y, w, h] is not finite, has no area, or has none inside a width x height image."""
    if not all(map(math.isfinite, box)):
        return True
    x, y, w, h = box
    inside_w = min(x + w, width) - max(x, 0)
    inside_h = min(y + h, height) - max(y, 0)
    return w <= 0 or h <= 0 or inside_w <= 0 or inside_h <= 0
