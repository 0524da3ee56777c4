"""The images of a COCO file with their boxes, and their augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from frs_train.config import DataConfig
from frs_train.data.coco import CocoFile
from frs_train.data.images import find_image, read_image, resembling
from frs_train.errors import UserError

Sample = tuple[Tensor, dict[str, Tensor]]


class CocoDetection(Dataset):
    """The images of a `CocoFile` with their boxes.

    Item (index, draw) is an image uint8 [3, H, W] and a target with `boxes` float32 [n, 4] (xyxy, pixels),
    `labels` int64 [n] (1 is the first class) and `image_id`, without boxes marked as crowd or to be ignored.
    `draw` seeds the augmentation; None applies none. A loader process cannot raise a clean error, so for an
    unreadable image the `UserError` is returned.
    """

    def __init__(self, coco: CocoFile, folder: Path, transform: v2.Transform | None = None):
        self.coco, self.folder, self.transform = coco, folder, transform
        if not folder.is_dir():
            raise UserError(f"Image folder {folder} does not exist.")
        names = [find_image(folder, name) for name in coco.images.names]
        if None in names:
            raise UserError(self._missing(names))
        self.names = np.array(names, dtype=np.dtypes.StringDType())
        labels = {category["id"]: label for label, category in enumerate(coco.categories, start=1)}
        self.learnt = coco.annotations.learnt
        self.labels = np.array([labels[c] for c in coco.annotations.category.tolist()], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.coco.images)

    def __getitem__(self, item: tuple[int, int | None]) -> Sample | UserError:
        index, draw = item
        record = self.coco.images[index]
        try:
            image = read_image(self.folder / self.names[index], record["width"], record["height"])
        except UserError as error:
            return UserError(f"{error} Correct the file or its record, then continue with --resume.")
        boxes, labels = self._boxes(index)
        if draw is not None and self.transform is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(draw)
                image, boxes = self.transform(image, boxes)
        target = {
            "boxes": boxes.as_subclass(Tensor),
            "labels": labels,
            "image_id": torch.tensor(record["id"]),
        }
        return image.as_subclass(Tensor), target

    def _boxes(self, index: int) -> tuple[tv_tensors.BoundingBoxes, Tensor]:
        rows = self.coco.annotations.of(index)
        learnt = self.learnt[rows]
        boxes = torch.from_numpy(self.coco.annotations.boxes[rows][learnt])
        height, width = self.coco.images.sizes[index, ::-1].tolist()
        return (
            # The overloads of torchvision leave out the name of a format.
            tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),  # pyright: ignore[reportCallIssue]
            torch.from_numpy(self.labels[rows][learnt]),
        )

    def _missing(self, files: list[str | None]) -> str:
        missing = [name for name, file in zip(self.coco.images.names, files, strict=True) if file is None]
        near = resembling(self.folder, missing[0])
        text = f" (there is {near!r}, whose letters differ in case)" if near else ""
        return (
            f"{len(missing)} of {len(files)} images of {self.coco.name} are missing in {self.folder}, the "
            f"first is {missing[0]!r}{text}. Copy them there, or give the folder that their file names are "
            "relative to."
        )


def augmentation(config: DataConfig) -> v2.Transform:
    """The training transforms. Resizing is left to the detector, so that training and evaluation resize
    alike."""
    j = config.jitter
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip(config.flip)]
    if j:
        steps.append(v2.ColorJitter(brightness=j, contrast=j, saturation=j))
    return v2.Compose(steps)
