"""The data sets of a run or an evaluation: opened from the configuration and checked."""

from __future__ import annotations

from pathlib import Path

from frs_train.config import RunConfig
from frs_train.data.coco import match_classes
from frs_train.data.dataset import CocoDetection, augmentation
from frs_train.data.layouts import read_split
from frs_train.errors import UserError
from frs_train.log import Log


def open_data(config: RunConfig, log: Log) -> tuple[CocoDetection, CocoDetection]:
    """The training and the validation set, checked; a summary of each is logged."""
    data = config.data
    train, train_images = read_split(
        log, data.folder, "train", data.train_annotations, data.train_images, "train-"
    )
    val, val_images = read_split(log, data.folder, "val", data.val_annotations, data.val_images, "val-")
    log.say(train.summary())
    log.say(val.summary())
    if train.empty == len(train.images):
        raise UserError(f"{train.name} has no usable box at all: there is nothing to train on.")
    val = match_classes(val, train.classes, train.name)
    return (
        CocoDetection(train, train_images, augmentation(data)),
        CocoDetection(val, val_images),
    )


def open_eval(
    annotations: Path | None,
    images: Path | None,
    classes: list[str],
    name: str,
    log: Log,
    *,
    folder: Path | None = None,
    split: str = "val",
) -> CocoDetection:
    """A data set for the evaluation of a detector with these classes; `name` is the detector in messages.
    `folder` has the paths that are not given (see `read_split`)."""
    coco, images = read_split(log, folder, split, annotations, images)
    log.say(coco.summary())
    return CocoDetection(match_classes(coco, classes, name), images)
