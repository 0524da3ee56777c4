"""Detections on images without annotations, as COCO results and as pictures.

Results are written while they are made. Memory grows with the number of images only by their names.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from frs_train.data.annotation_file import CategoryRecord
from frs_train.data.image_list import ImageList
from frs_train.data.loader import collate_readable, loaded, to_device
from frs_train.detectors import Detector, OnnxDetector
from frs_train.errors import UserError
from frs_train.evaluation.coco_metrics import coco_results
from frs_train.evaluation.pictures import draw_boxes
from frs_train.files import picture_names, write_atomically, written_atomically

RESULTS, IMAGES, PICTURES = "predictions.json", "images.json", "pictures"


class Predictions:
    """Where the predictions of some images go.

    Args:
        folder: gets `predictions.json` (COCO results), `images.json` (what their ids mean) and `pictures`.
        categories: the category of each label of the detector, in the order of the labels.
        score: minimum score of the results.
        drawn: how many images are drawn, the first ones.
        drawn_score: minimum score of the detections in pictures.
    """

    def __init__(
        self,
        folder: Path,
        images: ImageList,
        categories: Sequence[CategoryRecord],
        *,
        score: float = 0.0,
        drawn: int = 0,
        drawn_score: float = 0.3,
    ):
        self.folder, self.images, self.categories = folder, images, categories
        self.score, self.drawn_score = score, drawn_score
        files = [os.fsdecode(file) for file in images.files[:drawn]]
        self.pictures = picture_names(below_common_folder(files))

    def refuse_to_overwrite(self) -> None:
        """Raises `UserError` if one of the files exists already."""
        names = [RESULTS, IMAGES, *(f"{PICTURES}/{name}" for name in self.pictures)]
        old = [name for name in names if (self.folder / name).exists()]
        if old:
            raise UserError(
                f"{self.folder} has {len(old)} of these {len(names)} files already, the first is {old[0]}. "
                "Choose another --out, or remove them."
            )

    def draw(self, index: int, image: Tensor, detections: dict[str, Tensor]) -> None:
        """Writes the picture of an image [3, H, W] in 0..1, if it is one of those to be drawn."""
        if index >= len(self.pictures):
            return
        classes = [category["name"] for category in self.categories]
        kept = above(detections, self.drawn_score)
        content = io.BytesIO()
        stored = image.mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
        draw_boxes(stored, kept, classes).savefig(content, format="png")
        write_atomically(self.folder / PICTURES / self.pictures[index], content.getvalue())


def predict(
    detector: Detector | OnnxDetector,
    predictions: Predictions,
    device: torch.device,
    *,
    batch_size: int = 8,
    workers: int = 0,
    tell: Callable[..., None] = lambda **news: None,
    warn: Callable[[str], None] = lambda text: None,
) -> tuple[int, int]:
    """Detects objects and writes the predictions; returns the numbers of detections and of skipped images.

    An image that cannot be read is skipped, and `warn` gets a message. `tell` reports the progress (see
    `Log.progress`). Leaves the detector in evaluation mode. An exception leaves pictures, but no JSON file.

    Raises `UserError` if no image can be read, or a file cannot be written.
    """
    detector.eval()
    images, folder = predictions.images, predictions.folder
    batches = BatchSampler(range(len(images)), batch_size, drop_last=False)
    skipped = 0
    with (
        written_atomically(folder / RESULTS) as write_result,
        written_atomically(folder / IMAGES) as write_image,
        loaded(images, batches, workers, device, collate_readable) as reading,
    ):
        head = json.dumps({"categories": list(predictions.categories), "annotations": []})
        listed = Records(write_image, f'{head[:-1]}, "images": [')
        results = Records(write_result, "[")
        for readable, errors in reading:
            for error in errors:
                warn(f"{error} It is skipped.")
            skipped += len(errors)
            batch, targets = to_device(readable, device)
            for image, target, found in zip(
                batch, targets, detector.detect(batch) if batch else [], strict=True
            ):
                index, (height, width) = int(target["index"]), image.shape[-2:]
                record = images.record(index, width, height)
                listed.add(record)
                for result in coco_results(
                    above(found, predictions.score), record["id"], predictions.categories
                ):
                    results.add(result)
                predictions.draw(index, image, {key: value.cpu() for key, value in found.items()})
            tell(advance=len(readable) + len(errors))
        if skipped == len(images):
            raise UserError(f"None of the {skipped} images can be read: nothing is written.")
        listed.end("]}")
        results.end("]")
    return results.count, skipped


class Records:
    """A JSON list in a file that is written record by record, one on each line."""

    def __init__(self, write: Callable[[bytes], object], head: str):
        self.write, self.count = write, 0
        write(head.encode())

    def add(self, record: object) -> None:
        self.write(f"{',' if self.count else ''}\n{json.dumps(record)}".encode())
        self.count += 1

    def end(self, tail: str) -> None:
        self.write(f"\n{tail}\n".encode())


def above(detections: dict[str, Tensor], score: float) -> dict[str, Tensor]:
    """The detections with at least this score."""
    keep = detections["scores"] >= score
    return {key: detections[key][keep] for key in ("boxes", "scores", "labels")}


def below_common_folder(files: Sequence[str]) -> list[str]:
    """The paths of files relative to the deepest folder that has all of them."""
    if not files:
        return []
    places = [os.path.abspath(file) for file in files]
    common = os.path.commonpath([os.path.dirname(place) for place in places])
    return [os.path.relpath(place, common).replace(os.sep, "/") for place in places]
