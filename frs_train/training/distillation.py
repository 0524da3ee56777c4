"""A student that learns from the data and from a teacher.

The teacher runs in evaluation mode, in `inference_mode` and with its own autocast precision. The student's
head runs once, and the loss of the method (`frs_terms`, `softmax_terms`) compares what both have computed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import frs_kernels as frs
from frs_train.config import DistillConfig
from frs_train.detectors import Compatibility, Detector, Outputs, Target, compatibility
from frs_train.errors import UserError
from frs_train.training.frs_terms import FRSTerms
from frs_train.training.learner import Learner, autocast
from frs_train.training.masks import box_masks
from frs_train.training.softmax_terms import SOFTMAX_TERMS, SoftmaxTerm
from frs_train.training.terms import TERMS


class DistilledLearner(Learner):
    """A student with the loss of `config.method`.

    `forward` returns the student's losses, and the terms of the method with loss weights and warm-up applied.
    The teacher is not a submodule: it is neither saved, nor trained, nor moved to another device.

    Raises:
        UserError: student, teacher and method do not fit together.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        config: DistillConfig,
        same_classes: bool,
        warn: Callable[[str], None],
    ):
        super().__init__(student)
        self.config = config
        self._teacher = (teacher,)  # in a tuple: not a registered submodule
        if config.backend not in ("auto", *frs.available_backends()):
            raise UserError(
                f"--backend {config.backend} cannot run here. Use auto or one of "
                f"{', '.join(frs.available_backends())}; `python -m frs_kernels.info` says why."
            )
        fit = compatibility(teacher, student, same_classes=same_classes)
        self.levels = fit.levels
        self.loss = _loss(student, teacher, config, fit, warn)
        if fit.unshared:
            warn(fit.unshared)

    @property
    def teacher(self) -> Detector:
        return self._teacher[0]

    def forward(self, images: list[Tensor], targets: list[Target], size: int) -> dict[str, Tensor]:
        taught = self.teach(images, size)
        outputs = self.student(images, targets, size=size)
        masks = self.masks(taught, targets, images) if self.loss.has_masks else []
        ours, theirs = zip(*self.levels, strict=True)
        terms = self.loss.terms(outputs.at(ours), taught.at(theirs), masks)
        self.level_losses = {TERMS[name]: term.levels for name, term in terms.items()}
        return outputs.losses | {name: term.loss for name, term in terms.items()}

    def set_step(self, step: int) -> None:
        self.loss.set_step(step)

    def teach(self, images: list[Tensor], size: int) -> Outputs:
        """What the teacher computes from a batch, as constants: only what the loss and its masks need."""
        masks = self.loss.has_masks and self.config.method not in ("whole-map", "gt-box")
        with torch.inference_mode(), autocast(images[0].device, self.config.teacher_amp):
            return self.teacher(
                images,
                size=size,
                logits=self.loss.has_logits,
                masks=masks,
                edges=self.loss.has_edges,
            )

    def masks(self, taught: Outputs, targets: list[Target], images: list[Tensor]) -> list[Tensor]:
        """The masks [B, H, W] of the shared levels, by the method of the configuration."""
        if self.config.method == "whole-map":
            return [torch.ones_like(taught.feats[t][:, 0], dtype=torch.float32) for _, t in self.levels]
        if self.config.method == "gt-box":
            return box_masks(taught, targets, images, [self.teacher.strides[t] for _, t in self.levels])
        # Copied, because autograd cannot save tensors created in inference mode. Masks are small.
        return [taught.masks[t].clone() for _, t in self.levels]


def _loss(
    student: Detector,
    teacher: Detector,
    config: DistillConfig,
    fit: Compatibility,
    warn: Callable[[str], None],
) -> FRSTerms | SoftmaxTerm:
    if kind := SOFTMAX_TERMS.get(config.method):
        loss = kind(student, teacher, config, fit)
        loss.check_backend(next(teacher.parameters()).device)
        return loss
    return FRSTerms(student, teacher, config, fit, warn)
