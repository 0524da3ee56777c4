"""Synthetic detection data for the examples: rectangles of two colours, which are the two classes."""

from pathlib import Path

import torch
from torchvision.io import write_png

NAMES = ("red", "blue")


def images_and_boxes(count: int, size: int = 64, seed: int = 0):
    """One (image [3, size, size] in [0, 1], boxes [n, 4] as x1 y1 x2 y2, labels [n] from 0) per image."""
    random = torch.Generator().manual_seed(seed)
    examples = []
    for _ in range(count):
        image = torch.rand(3, size, size, generator=random) * 0.3
        number = int(torch.randint(1, 4, (), generator=random))
        corners = torch.randint(0, size // 2, (number, 2), generator=random)
        sides = torch.randint(size // 8, size // 2, (number, 2), generator=random)
        boxes = torch.cat([corners, corners + sides], dim=1)
        labels = torch.randint(0, len(NAMES), (number,), generator=random)
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            image[2 * label, y1:y2, x1:x2] = 0.9
        examples.append((image, boxes.float(), labels))
    return examples


def torchvision_batch(count: int, size: int = 64, seed: int = 0):
    """(images, targets) in the form that torchvision's detectors take: labels count from 1."""
    examples = images_and_boxes(count, size, seed)
    targets = [{"boxes": boxes, "labels": labels + 1} for _, boxes, labels in examples]
    return [image for image, _, _ in examples], targets


def write_yolo_dataset(folder: Path, count: int = 8, size: int = 64, task: str = "detect") -> Path:
    """Writes images and labels in YOLO format; returns the path of their data.yaml.

    The outline of an object ("segment", "obb") and its keypoints ("pose") are the corners of its rectangle.
    """
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number, (image, boxes, labels) in enumerate(images_and_boxes(count, size)):
        write_png((image * 255).byte(), str(folder / "images" / f"{number}.png"))
        rows = zip(labels.tolist(), _yolo_labels(boxes / size, task).tolist(), strict=True)
        lines = [" ".join([str(label), *(f"{value:.6f}" for value in row)]) for label, row in rows]
        (folder / "labels" / f"{number}.txt").write_text("\n".join(lines) + "\n")
    path = folder / "data.yaml"
    names = "\n".join(f"  {number}: {name}" for number, name in enumerate(NAMES))
    keypoints = "kpt_shape: [4, 3]\n" if task == "pose" else ""
    path.write_text(f"path: {folder}\ntrain: images\nval: images\n{keypoints}names:\n{names}\n")
    return path


def _yolo_labels(boxes: torch.Tensor, task: str) -> torch.Tensor:
    """The numbers that follow the class in a label file, from boxes [n, 4] as fractions of the image."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]]  # clockwise from the top left
    if task in ("segment", "obb"):
        return corners
    rows = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
    if task == "pose":
        visible = torch.full((len(boxes), 4, 1), 2.0)
        rows = torch.cat([rows, torch.cat([corners.reshape(-1, 4, 2), visible], dim=2).flatten(1)], dim=1)
    return rows
