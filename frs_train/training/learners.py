"""`make_learner`, which creates the student, alone or with its teacher, from a configuration."""

from __future__ import annotations

import torch

from frs_train import distributed
from frs_train.config import DetectorConfig, RunConfig
from frs_train.detectors import (
    Detector,
    build_detector,
    load_weights,
)
from frs_train.errors import UserError
from frs_train.log import Log
from frs_train.training.checkpoint import read_detector
from frs_train.training.distillation import DistilledLearner
from frs_train.training.learner import Learner
from frs_train.training.teacher import prepare_teacher, start_head


def make_learner(
    config: RunConfig, classes: list[str], device: torch.device, log: Log, fresh: bool
) -> Learner:
    """The student, alone or with its teacher, on the device.

    `fresh` is False if the weights are restored afterwards; published or inherited weights are then not
    loaded.
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
    return _placed(DistilledLearner(student, teacher, distill, same, log.warn), config, device)


def check_batch_norm(config: RunConfig, processes: int) -> None:
    """Raises `UserError` if batch norm may get a single value per channel, whose variance is undefined: one
    image with a single location at stride 32."""
    detector, train = config.detector, config.train
    images = train.batch_size // (train.accumulate * processes)
    if detector.backbone_norm == "batch" and images == 1 and min(detector.min_size) <= 32:
        raise UserError(
            f"--backbone-norm batch cannot train on one image of --min-size {min(detector.min_size)} at a "
            "time: its deepest features are a single location. Choose --backbone-norm group, larger images, "
            "or a larger --batch-size for the same --accumulate."
        )


def build(config: DetectorConfig, classes: list[str]) -> Detector:
    """The detector of a configuration, with random weights."""
    try:
        return build_detector(config, len(classes))
    except ValueError as error:
        raise UserError(f"The detector cannot be built: {error}.") from None


def _placed(learner: Learner, config: RunConfig, device: torch.device) -> Learner:
    memory_format = torch.channels_last if config.train.channels_last else torch.preserve_format
    return learner.to(device, memory_format=memory_format)  # pyright: ignore[reportCallIssue]  # torch's overloads lack it
