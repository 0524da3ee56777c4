"""The teacher of a distillation: its preparation, and the student's head copied from it."""

from __future__ import annotations

import torch

from frs_train.config import DistillConfig
from frs_train.detectors import Detector, compatibility


def prepare_teacher(
    teacher: Detector, student: Detector, config: DistillConfig, device: torch.device
) -> Detector:
    """Prepares the teacher: frozen, on the device, and with the student's limit of the image size."""
    teacher.eval().requires_grad_(False).to(device)
    teacher.model.transform.max_size = student.model.transform.max_size  # pyright: ignore[reportAttributeAccessIssue]  # torchvision's
    if config.teacher_channels_last:
        teacher.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch's overloads lack it
    if config.teacher_compile:
        teacher.features = torch.compile(teacher.features)
        teacher.classify = torch.compile(teacher.classify)
    return teacher


def inherit_head(student: Detector, teacher: Detector) -> int:
    """Copies each tensor of the teacher's head for which the student has one with the same name and shape.
    Returns the number of tensors."""
    theirs = teacher.state_dict()
    ours = student.state_dict()
    heads = [k for k in ours if any("head" in part for part in k.split("."))]
    shared = {k: theirs[k] for k in heads if k in theirs and theirs[k].shape == ours[k].shape}
    student.load_state_dict(shared, strict=False)
    return len(shared)


def start_head(student: Detector, teacher: Detector, same_classes: bool) -> str:
    """Copies the teacher's head to the student if their logits mean the same. Returns a line for the log."""
    if compatibility(teacher, student, same_classes=same_classes).head_loss:
        return f"The student's head starts from the teacher's: {inherit_head(student, teacher)} tensors."
    return "The student's head starts at random: the teacher's does not fit."
