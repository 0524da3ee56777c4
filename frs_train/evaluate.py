"""COCO numbers by pycocotools; with several processes every image is detected by exactly one of them."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from pycocotools.cocoeval import COCOeval

from frs_train import distributed
from frs_train.coco import CocoFile
from frs_train.data import CocoDetection, loaded, to_device
from frs_train.detectors import Detector
from frs_train.errors import UserError

METRICS = {
    "AP": 0,
    "AP50": 1,
    "AP75": 2,
    "AP_S": 3,
    "AP_M": 4,
    "AP_L": 5,
    "AR": 8,
}  # -> place in COCOeval.stats


def evaluate(
    detector: Detector,
    dataset: CocoDetection,
    device: torch.device,
    *,
    batch_size: int = 8,
    workers: int = 0,
    tell: Callable[..., None] = lambda **news: None,
) -> dict[str, float | None | dict[str, float | None]]:
    """COCO metrics of a detector on a data set, as fractions; None where there is nothing to measure.

    Returns `METRICS` and `classes`, the AP of each class by name. `tell`
    hears of the progress (see `Log.progress`). All
    processes return the same. Leaves the detector in evaluation mode.
    """
    detector.eval()
    mine = range(distributed.rank(), len(dataset), distributed.world())
    order = [
        [(i, None) for i in mine[first : first + batch_size]] for first in range(0, len(mine), batch_size)
    ]
    results = []
    with loaded(dataset, order, workers, device) as batches:
        for batch in batches:
            images, targets = to_device(batch, device)
            for found, target in zip(detector.detect(images), targets, strict=True):
                results += coco_results(found, int(target["image_id"]), dataset.coco)
            tell(advance=len(images) * distributed.world())
    everyone = [result for part in distributed.gather(results) for result in part]
    return summarise(dataset.coco, everyone)


def coco_results(found: dict[str, torch.Tensor], image_id: int, coco: CocoFile) -> list[dict]:
    """Detections (boxes xyxy, labels 1..K) of an image as COCO result records (bbox xywh, category ids)."""
    boxes = found["boxes"].detach().cpu().double()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": coco.categories[label - 1]["id"], "bbox": box, "score": score}
        for box, score, label in rows
    ]


def summarise(coco: CocoFile, results: list[dict]) -> dict[str, float | None | dict[str, float | None]]:
    """The metrics of COCO result records."""
    if not results:
        return {**dict.fromkeys(METRICS, 0.0), "classes": dict.fromkeys(coco.classes, 0.0)}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.api()
        truth.dataset["info"] = {}
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][
        :, :, :, 0, -1
    ]  # [IoU, recall, class]: all areas, 100 detections
    by_class = {name: _mean(precision[:, :, k]) for k, name in enumerate(coco.classes)}
    return {**{name: _number(evaluation.stats[i]) for name, i in METRICS.items()}, "classes": by_class}


def _mean(precision) -> float | None:
    valid = precision[precision > -1]
    return _number(valid.mean()) if valid.size else None


def _number(value: float) -> float | None:
    """COCOeval says -1 where there is nothing to measure."""
    return float(value) if math.isfinite(value) and value >= 0 else None


def matching(coco: CocoFile, classes: list[str], name: str) -> CocoFile:
    """The file with its categories in the order of the detector's classes.

    Raises `UserError` if the file has a class that the detector (called `name`) does not know.
    """
    unknown = sorted(set(coco.classes) - set(classes))
    if unknown:
        raise UserError(
            f"{coco.path} has the category {unknown[0]!r}, which {name} does not know: it was trained on "
            f"{', '.join(classes)}. Evaluate it on a file with these categories."
        )
    by_name = {c["name"]: c for c in coco.categories}
    taken = {c["id"] for c in coco.categories}
    spare = (number for number in itertools.count(1) if number not in taken)
    ordered = [by_name.get(name) or {"id": next(spare), "name": name} for name in classes]
    return replace(coco, categories=ordered)
