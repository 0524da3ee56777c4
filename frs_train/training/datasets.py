"""The data sets of a run or an evaluation: opened from the configuration and checked."""

from __future__ import annotations

from pathlib import Path

from frs_train.config import RunConfig
from frs_train.data.coco import match_classes, read_coco
from frs_train.data.dataset import CocoDetection, augmentation
from frs_train.errors import UserError
from frs_train.log import Log


def open_data(config: RunConfig, log: Log) -> tuple[CocoDetection, CocoDetection]:
    """The training and the validation set, checked; a summary of each is logged."""
    data = config.data
    train = read_coco(_given(data.train_annotations, "train-annotations"))
    val = read_coco(_given(data.val_annotations, "val-annotations"))
    log.say(train.summary())
    log.say(val.summary())
    if train.empty == len(train.images):
        raise UserError(f"{train.path} has no usable box at all: there is nothing to train on.")
    val = match_classes(val, train.classes, str(train.path))
    return (
        CocoDetection(train, _given(data.train_images, "train-images"), augmentation(data)),
        CocoDetection(val, _given(data.val_images, "val-images")),
    )


def open_eval(annotations: Path, images: Path, classes: list[str], name: str, log: Log) -> CocoDetection:
    """A data set for the evaluation of a detector with these classes; `name` is the detector in messages."""
    coco = read_coco(annotations)
    log.say(coco.summary())
    return CocoDetection(match_classes(coco, classes, name), images)


def _given(path: Path | None, option: str) -> Path:
    if path is None:
        raise UserError(f"--{option} is missing.")
    return path
