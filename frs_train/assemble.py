"""From a configuration to what the loop needs: data sets, and the detector that learns, with its teacher."""

from __future__ import annotations

from pathlib import Path

import torch

from frs_train import checkpoint, distributed
from frs_train.coco import read_coco
from frs_train.config import DetectorConfig, RunConfig
from frs_train.data import CocoDetection, augmentation
from frs_train.detectors import (
    Detector,
    build_detector,
    coco_classes,
    compatibility,
    from_torchvision,
    load_weights,
)
from frs_train.distiller import Distiller, Learner, inherit_head, prepare_teacher
from frs_train.errors import UserError
from frs_train.evaluate import matching
from frs_train.metrics import Log


def open_data(config: RunConfig, log: Log) -> tuple[CocoDetection, CocoDetection]:
    """The training and the validation set, checked; what was found and left out is logged."""
    data = config.data
    train = read_coco(_given(data.train_annotations, "train-annotations"))
    val = read_coco(_given(data.val_annotations, "val-annotations"))
    log.say(train.summary())
    log.say(val.summary())
    if train.empty == len(train.images):
        raise UserError(f"{train.path} has no usable box at all: there is nothing to learn from it.")
    val = matching(val, train.classes, str(train.path))
    return (
        CocoDetection(train, _given(data.train_images, "train-images"), augmentation(data)),
        CocoDetection(val, _given(data.val_images, "val-images")),
    )


def open_eval(annotations: Path, images: Path, classes: list[str], name: str, log: Log) -> CocoDetection:
    """A data set to evaluate a detector (called `name`) with these classes on."""
    coco = read_coco(annotations)
    log.say(coco.summary())
    return CocoDetection(matching(coco, classes, name), images)


def _given(path: Path | None, option: str) -> Path:
    if path is None:
        raise UserError(f"--{option} is missing.")
    return path


def make_learner(
    config: RunConfig, classes: list[str], device: torch.device, log: Log, fresh: bool
) -> Learner:
    """The student, alone or with its teacher, on the device.

    `fresh` is False if its weights are about to be restored: then published or inherited ones are not needed.
    """
    check_batch_norm(config, distributed.world())
    student, distill = build(config.detector, classes), config.distill
    if fresh:
        load_weights(student)
    if distill is None or (distill.method == "none" and not (distill.teacher and distill.inherit_head)):
        return _placed(Learner(student), config, device)
    if distill.teacher is None:
        raise UserError("--teacher is missing: the run folder or checkpoint of a trained detector.")
    teacher, teacher_classes = read_detector(distill.teacher, log)
    same = teacher_classes == classes
    if fresh and distill.inherit_head:
        log.say(start_head(student, teacher, same))
    if distill.method == "none":
        return _placed(Learner(student), config, device)
    teacher = prepare_teacher(teacher, student, distill, device)
    return _placed(
        Distiller(student, teacher, distill, same, log.warn, config.train.accumulate), config, device
    )


def check_batch_norm(config: RunConfig, processes: int) -> None:
    """Raises `UserError` where batch norm may meet a single value of a channel, which has no variance: in one
    image that is a single location at stride 32."""
    detector, train = config.detector, config.train
    images = train.batch_size // (train.accumulate * processes)
    if detector.backbone_norm == "batch" and images == 1 and min(detector.min_size) <= 32:
        raise UserError(
            f"--backbone-norm batch cannot train on one image of --min-size {min(detector.min_size)} at a "
            "time: its deepest features are a single location. Choose --backbone-norm group, larger images, "
            "or a larger --batch-size for the same --accumulate."
        )


def start_head(student: Detector, teacher: Detector, same_classes: bool) -> str:
    """Gives the student the teacher's head, if both mean the same by it; returns what was done, in words."""
    if compatibility(teacher, student, same_classes=same_classes).head_loss:
        return f"The student's head starts from the teacher's: {inherit_head(student, teacher)} tensors."
    return "The student's head starts at random, for the teacher's does not fit."


def build(config: DetectorConfig, classes: list[str]) -> Detector:
    """The detector of a configuration, with random weights."""
    try:
        return build_detector(config, len(classes))
    except ValueError as error:
        raise UserError(f"The detector cannot be built: {error}.") from None


def read_detector(source: str, log: Log) -> tuple[Detector, list[str]]:
    """A detector in evaluation mode and its classes: from a run folder, a checkpoint, or
    `torchvision:NAME`."""
    kind, _, name = source.partition(":")
    if kind == "torchvision":
        return from_torchvision(name).eval(), coco_classes()
    return checkpoint.restore(checkpoint.read(Path(source), log.warn))


def _placed(learner: Learner, config: RunConfig, device: torch.device) -> Learner:
    memory_format = torch.channels_last if config.train.channels_last else torch.preserve_format
    return learner.to(device, memory_format=memory_format)
