"""COCO metrics, computed by faster-coco-eval, whose values are those of pycocotools.

With several processes, each processes a part of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster

from frs_train import distributed
from frs_train.data.annotation_file import CategoryRecord
from frs_train.data.coco import CocoFile
from frs_train.data.dataset import CocoDetection
from frs_train.data.loader import loaded, to_device
from frs_train.detectors import Detector, OnnxDetector
from frs_train.errors import UserError

METRICS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR")


def evaluate(
    detector: Detector | OnnxDetector,
    dataset: CocoDetection,
    device: torch.device,
    *,
    batch_size: int = 8,
    workers: int = 0,
    tell: Callable[..., None] = lambda **news: None,
) -> dict[str, float | int | None | dict[str, float | None]]:
    """The COCO metrics of a detector on a data set as fractions; None where there is nothing to measure.

    Returns `METRICS`, `classes` (the AP of each class by name) and `max_detections`: the number of
    detections per image that are counted, those with the highest scores; it is `detections_per_image` of the
    detector's configuration. `tell` reports the progress (see `Log.progress`). All processes return the same
    values. Leaves the detector in evaluation mode. Raises `UserError` if `batch_size` is below 1.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}: an evaluation needs at least 1 image at a time.")
    detector.eval()
    mine = range(distributed.rank(), len(dataset), distributed.world())
    order = [
        [(i, None) for i in mine[first : first + batch_size]] for first in range(0, len(mine), batch_size)
    ]
    results = []
    with loaded(dataset, order, workers, device) as batches:
        for batch in batches:
            images, targets = to_device(batch, device)
            for detections, target in zip(detector.detect(images), targets, strict=True):
                results += coco_results(detections, int(target["image_id"]), dataset.coco.categories)
            tell(advance=len(images) * distributed.world())
    everyone = [result for part in distributed.gather(results) for result in part]
    return summarise(dataset.coco, everyone, detector.config.detections_per_image)


def coco_results(
    detections: dict[str, torch.Tensor], image_id: int, categories: Sequence[CategoryRecord]
) -> list[dict]:
    """Detections (boxes xyxy, labels 1..K) of an image as COCO result records (bbox xywh, category ids)."""
    boxes = detections["boxes"].detach().cpu().double()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), detections["scores"].tolist(), detections["labels"].tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": categories[label - 1]["id"], "bbox": box, "score": score}
        for box, score, label in rows
    ]


def summarise(
    coco: CocoFile, results: list[dict], max_detections: int = 100
) -> dict[str, float | int | None | dict[str, float | None]]:
    """The metrics of COCO result records, counting the best `max_detections` per image.

    The library's own summary lacks the AP of each class.
    """
    truth = (record for records in coco.by_image.values() for record in records)
    found = ({**r, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0} for r in results)
    evaluation = COCOeval_faster(_indexed(coco, truth), _indexed(coco, found), "bbox")
    evaluation.params.maxDets = [max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    params = evaluation.params
    precision = evaluation.eval["precision"][..., 0]  # [IoU threshold, recall, class, area]
    every = precision[..., 0]
    values = {
        "AP": every,
        **{f"AP{k}": every[np.isclose(params.iouThrs, k / 100)] for k in (50, 75)},
        **{f"AP_{size[0].upper()}": precision[..., k] for k, size in enumerate(params.areaRngLbl) if k},
        "AR": evaluation.eval["recall"][..., 0, 0],
    }
    return {
        **{name: _mean(values[name]) for name in METRICS},
        "classes": {name: _mean(every[..., k]) for k, name in enumerate(coco.classes)},
        "max_detections": max_detections,
    }


def _indexed(coco: CocoFile, records: Iterable[dict[str, Any]]) -> COCO:
    """The records with new ids from 1, because the library reads ids as float64: an image gets its rank (the
    order of the images decides between equal scores), a category its label."""
    images = {number: rank for rank, number in enumerate(sorted(coco.images.ids.tolist()), start=1)}
    labels = {category["id"]: label for label, category in enumerate(coco.categories, start=1)}
    index = COCO()
    index.dataset = {
        "images": [{"id": rank} for rank in images.values()],
        "categories": [{"id": label} for label in labels.values()],
        "annotations": [
            {**r, "id": row, "image_id": images[r["image_id"]], "category_id": labels[r["category_id"]]}
            for row, r in enumerate(records, start=1)
        ],
    }
    index.createIndex()
    return index


def _mean(values: np.ndarray) -> float | None:
    """The mean of the measured values; -1 stands for the others."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else None


def describe(record: dict[str, Any]) -> str:
    """COCO metrics in per cent, on one line."""
    values = ((k, record[k]) for k in ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L"))
    text = "  ".join(f"{name} {'-' if value is None else f'{100 * value:.1f}'}" for name, value in values)
    limit = record.get("max_detections")
    return f"{text}  (best {limit} detections of an image)" if limit else text
