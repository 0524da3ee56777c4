"""The terms of a distillation: their names, values, and the channels of their adapters."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from frs_train.config import DistillConfig
from frs_train.detectors import Detector
from frs_train.errors import UserError

TERMS = {
    "frs_feature": "feature_level",
    "frs_head": "head_level",
    "ld": "ld_level",
    "cwd": "cwd_level",
    "kd": "kd_level",
}
"""Names of the distillation losses, and of what each level contributes to them."""


class Term(NamedTuple):
    """The value of a distillation loss, with its weight and warm-up."""

    loss: Tensor
    """0-d, differentiable in what the student computed."""
    levels: Tensor
    """[levels]: what each level contributes, detached."""


def adapter_channels(
    student: Detector, teacher: Detector, levels: list[tuple[int, int]], config: DistillConfig
) -> tuple[list[int], list[int]]:
    """D of the student's and the teacher's features on the shared levels.

    Raises:
        UserError: the adapter cannot map the one to the other.
    """
    if config.adapter == "identity" and student.feat_channels != teacher.feat_channels:
        raise UserError(
            f"--adapter identity needs equal channels; the teacher has {teacher.feat_channels}, the "
            f"student {student.feat_channels}. Use conv3x3, or another --fpn-width."
        )
    return [student.feat_channels[s] for s, _ in levels], [teacher.feat_channels[t] for _, t in levels]
