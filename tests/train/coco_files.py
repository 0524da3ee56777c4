"""Small annotation files with the changes that a test needs, and data sets without image files."""

import copy
import json
import time
from pathlib import Path

import torch
from PIL import Image

CONTENT = {
    "images": [{"id": 1, "file_name": "a.png", "width": 640, "height": 480}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 17, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}],
}


def content(**lists):
    """The content of a file, with these lists in place of the default ones."""
    return {**copy.deepcopy(CONTENT), **lists}


def annotations(*changes):
    """Annotations of image 1, one for each of these changes of fields."""
    return [{**CONTENT["annotations"][0], "id": 17 + i, **change} for i, change in enumerate(changes)]


def write(folder: Path, content, name="data.json") -> Path:
    """Writes an annotation file with this content."""
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_with_images(folder: Path, content, name="data.json") -> Path:
    """Writes an annotation file and a black image for each of its records."""
    for image in content["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(folder / image["file_name"])
    return write(folder, content, name)


class Images:
    """A data set of images of 300 KB without files; the item `stuck` waits forever."""

    def __init__(self, stuck=()):
        self.stuck = stuck

    def __getitem__(self, item):
        while item[0] in self.stuck:
            time.sleep(1)
        return torch.zeros(3, 320, 320, dtype=torch.uint8), {"image_id": torch.tensor(item[0])}
