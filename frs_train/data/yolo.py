"""YOLO data sets: a YAML file, images, and a text file of labels for each image.

A line of labels is `class x y width height`, a box by its center, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon
of which the box is kept; all are fractions of the image. An image without a text file has no objects. The
sizes of the images come from the headers of their files.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from frs_train.data.annotation_file import CategoryRecord, Content
from frs_train.data.coco import CocoFile, checked
from frs_train.data.images import image_files, image_size
from frs_train.errors import UserError
from frs_train.log import Log
from frs_train.text import shortened

NAMES = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}
"""The names of each split, here and in other layouts."""
SLACK = 0.01  # exporters round, and let polygons touch the edge from outside; pixels are far from it


def read_yolo(path: Path, split: str, log: Log) -> tuple[CocoFile, Path]:
    """One split of a YOLO data set as a COCO file, and the folder that its file names are relative to.

    Images are numbered from 1 in the order of their names. A category has the number of its class as its id.

    Args:
        path: the YAML file. It has `names` and, for each split, a folder of images, a text file that lists
            images, or a list of these.
        split: train, val or test.

    Raises:
        UserError: naming the file, the line and the value that is wrong.
    """
    content = _content(path)
    categories = _categories(path, content)
    classes = {category["id"] for category in categories}
    files = list(_images(path, content, split))
    records: Content = {"images": [], "annotations": [], "categories": categories}
    labelled = 0
    with log.progress(len(files), 0, "reading labels") as tell:
        for number, file in enumerate(files, start=1):
            width, height = image_size(file)
            name = Path(os.path.relpath(file, path.parent)).as_posix()
            records["images"].append({"id": number, "file_name": name, "width": width, "height": height})
            labels = next((labels for labels in label_files(file) if os.path.isfile(labels)), None)
            labelled += labels is not None
            for category, (x1, y1, x2, y2) in read_labels(labels, classes) if labels else ():
                box = (x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height)
                records["annotations"].append({"image_id": number, "category_id": category, "bbox": box})
            tell(advance=1)
    if not labelled:
        looked = " and ".join(map(str, label_files(files[0])))
        raise UserError(
            f"{path} ({split}): none of its {len(files)} images has a file of labels. For the first, looked "
            f"for {looked}."
        )
    return checked(f"{path} ({split})", records), path.parent


def label_files(image: Path) -> list[Path]:
    """Where the labels of an image may be: beside it, or with the last `images` of its path as `labels`."""
    beside = image.with_suffix(".txt")
    folders = beside.parts[:-1]
    if "images" not in folders:
        return [beside]
    last = len(folders) - 1 - folders[::-1].index("images")
    return [Path(*folders[:last], "labels", *beside.parts[last + 1 :]), beside]


def read_labels(
    path: Path, classes: Collection[int]
) -> Iterator[tuple[int, tuple[float, float, float, float]]]:
    """The class and the box (x1, y1, x2, y2 as fractions of the image) of each line of a file of labels."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"Labels {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"Labels {path} are not text in UTF-8.") from None
    for number, line in enumerate(lines, start=1):
        if not (words := line.split()):
            continue
        place = f"{path}, line {number}"
        try:
            category, *values = map(float, words)
        except ValueError:
            raise UserError(
                f"{place} has something else than numbers: {shortened(line.strip())!r}."
            ) from None
        if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
            raise UserError(
                f"{place} has {len(words)} numbers. It must be a box (class, x, y, width, height: 5 numbers) "
                "or a polygon (class, then x and y of three corners or more: 7, 9, 11, ... numbers)."
            )
        if category not in classes:
            raise UserError(
                f"{place} has the class {shortened(words[0])}. The YAML file names the classes "
                f"{min(classes)} to {max(classes)}."
            )
        wrong = next(
            (w for w, v in zip(words[1:], values, strict=True) if not -SLACK <= v <= 1 + SLACK), None
        )
        if wrong is not None:
            raise UserError(
                f"{place} has the coordinate {shortened(wrong)}. It must be a fraction of the image's width "
                "or height, 0 to 1, and not a number of pixels."
            )
        yield int(category), _box(values)


def _box(values: list[float]) -> tuple[float, float, float, float]:
    """The corners x1, y1, x2, y2 of a box x, y, width, height, or of a polygon."""
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    across, down = values[::2], values[1::2]
    return min(across), min(down), max(across), max(down)


def _content(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is not valid YAML: {shortened(reason, 200)}.") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is not the YAML file of a YOLO data set: it has no keys train, val and names."
        )
    if content.get("kpt_shape"):
        raise UserError(
            f"{path} has key points (kpt_shape), whose labels differ from those of boxes. Convert it to COCO."
        )
    return content


def _categories(path: Path, content: dict[Any, Any]) -> list[CategoryRecord]:
    names = content.get("names")
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(numbered, dict) or not numbered:
        raise UserError(
            f'{path} has "names": {shortened(repr(names))}. It must be a list of the names of the classes, '
            "or their names by number."
        )
    records = [{"id": number, "name": name} for number, name in numbered.items()]
    try:
        categories = TypeAdapter(list[CategoryRecord]).validate_python(records)
    except ValidationError as error:
        position = int(error.errors()[0]["loc"][0])
        number, name = shortened(repr(records[position]["id"])), shortened(repr(records[position]["name"]))
        raise UserError(
            f'{path} has the class {number}: {name} in "names". It must be a whole number and a name; a name '
            "like no or on needs quotes."
        ) from None
    count = content.get("nc")
    if count is not None and count != len(categories):
        raise UserError(
            f'{path} has "nc": {shortened(repr(count))}, but names {len(categories)} classes. Correct one of '
            "them."
        )
    return categories


def _images(path: Path, content: dict[Any, Any], split: str) -> Iterator[Path]:
    """The image files of a split."""
    key = next((name for name in NAMES[split] if content.get(name)), None)
    if key is None:
        raise UserError(f"{path} has no {split!r}: the folder of the images of this split.")
    entries = content[key] if isinstance(content[key], list) else [content[key]]
    images = 0
    for entry in entries:
        place = _place(path, content.get("path"), key, entry)
        for file in _listed(place) if place.is_file() else map(Path, image_files(place)):
            images += 1
            yield file
    if not images:
        raise UserError(f"{path} ({split}) has no images: looked in {', '.join(map(str, entries))}.")


def _place(path: Path, root: Any, key: str, entry: Any) -> Path:
    """The folder or file that an entry names: relative to `path` in the YAML file, or to its own folder.

    Roboflow's exports write `../train/images` for a folder beside the file.
    """
    if not isinstance(entry, str):
        raise UserError(f'{path} has "{key}": {shortened(repr(entry))}. It must be a folder of images.')
    roots = [path.parent / root, path.parent] if isinstance(root, str) else [path.parent]
    places = [root / name for root in roots for name in dict.fromkeys((entry, entry.removeprefix("../")))]
    found = next((place for place in places if os.path.exists(place)), None)
    if found is None:
        raise UserError(
            f'{path} has "{key}": {shortened(repr(entry))}, which does not exist. Looked for '
            f"{', '.join(map(str, places))}."
        )
    return found


def _listed(path: Path) -> Iterator[Path]:
    """The images that a text file lists, one a line, relative to the file's folder."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"List of images {path} cannot be read: {error}.") from None
    for number, line in enumerate(lines, start=1):
        if name := line.strip():
            file = path.parent / name
            if not os.path.isfile(file):
                raise UserError(f"{path}, line {number}: there is no image {file}.")
            yield file
