"""The learner without a teacher, and the autocast context of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frs_train.detectors import Detector, Target

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """The autocast context of an `amp` option; "none" disables autocast."""
    return torch.autocast(device.type, dtype=AMP_DTYPES.get(amp, torch.bfloat16), enabled=amp in AMP_DTYPES)


class Learner(nn.Module):
    """A student without a teacher: forward(images, targets, size) -> detection losses by name.

    Attributes:
        levels: (student level, teacher level) of the levels that both have; empty without a teacher.
        level_losses: what each level contributed to losses of the last forward, by name: [levels], detached.
    """

    def __init__(self, student: Detector):
        super().__init__()
        self.student = student
        self.levels: list[tuple[int, int]] = []
        self.level_losses: dict[str, Tensor] = {}

    def forward(self, images: list[Tensor], targets: list[Target], size: int) -> dict[str, Tensor]:
        return self.student(images, targets, size=size).losses

    def set_step(self, step: int) -> None:
        """Tells how many optimizer steps have been taken."""
