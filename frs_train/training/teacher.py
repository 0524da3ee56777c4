"""The teacher of a distillation: its preparation, and the student's head copied from it."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

from frs_train.config import DistillConfig
from frs_train.detectors import Detector, compatibility


def prepare_teacher(
    teacher: Detector, student: Detector, config: DistillConfig, device: torch.device
) -> Detector:
    """Prepares the teacher: frozen, on the device, and with the student's limit of the image size.

    Its batch norm, a constant factor and offset per channel, becomes a part of the convolutions. On a CPU,
    weights and features are channels_last, in which oneDNN's convolutions are faster. A compiled teacher
    takes three times as long in this layout.
    """
    fold_batch_norm(teacher.eval().requires_grad_(False)).to(device)
    teacher.model.transform.max_size = student.model.transform.max_size  # pyright: ignore[reportAttributeAccessIssue]  # torchvision's
    if config.teacher_channels_last or (device.type == "cpu" and not config.teacher_compile):
        teacher.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch's overloads lack it
    if config.teacher_compile:
        teacher.features = torch.compile(teacher.features)
        teacher.classify = torch.compile(teacher.classify)
        teacher.locate = torch.compile(teacher.locate)
    return teacher


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Multiplies the factors of each batch norm in evaluation mode into the convolution before it, in place.

    The convolution before a batch norm is the child just before it, as in torchvision's backbones.
    """
    for (first, conv), (second, norm) in itertools.pairwise(list(module.named_children())):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            setattr(module, first, fuse_conv_bn_eval(conv, norm))  # pyright: ignore[reportArgumentType]  # torch names BatchNorm only
            setattr(module, second, nn.Identity())
    for child in module.children():
        fold_batch_norm(child)
    return module


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
    if compatibility(teacher, student, same_classes=same_classes).logit_difference is None:
        return f"The student's head starts from the teacher's: {inherit_head(student, teacher)} tensors."
    return "The student's head starts at random: the teacher's does not fit."
