"""Small YOLO data sets."""

from pathlib import Path

import yaml
from PIL import Image

DESCRIPTION = {"train": "images/train", "val": "images/val", "names": ["cat", "dog"]}


def write_yolo(folder: Path, labels: dict[str, str | None], description=DESCRIPTION, size=(100, 50)) -> Path:
    """Writes a data.yaml, and for each image its file and its labels, None for an image without; returns the
    path of the YAML file."""
    for name, text in labels.items():
        image = folder / name
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size).save(image)
        if text is not None:
            place = folder / name.replace("images", "labels", 1)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.with_suffix(".txt").write_text(text)
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(description))
    return path


def as_yolo(coco, images: Path, out: Path, description: dict[str, object], to: str) -> Path:
    """Writes a `CocoFile` as a YOLO data set whose images are in the folder `to`."""
    place = {category["id"]: row for row, category in enumerate(coco.categories)}
    labels = {}
    for record in coco.images:
        width, height = record["width"], record["height"]
        lines = []
        for annotation in coco.by_image.get(record["id"], []):
            x, y, w, h = annotation["bbox"]
            values = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
            lines.append(
                " ".join([str(place[annotation["category_id"]]), *(f"{value:.9f}" for value in values)])
            )
        labels[f"{to}/{record['file_name']}"] = "\n".join(lines)
    path = write_yolo(out, labels, {**description, "names": coco.classes})
    for record in coco.images:
        (out / to / record["file_name"]).write_bytes((images / record["file_name"]).read_bytes())
    return path
