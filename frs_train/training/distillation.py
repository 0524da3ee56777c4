"""The losses of a student with a teacher: detection losses, feature loss and head loss.

The teacher runs in evaluation mode, in `inference_mode` and with its own autocast precision. The student's
head runs once, and one call of `frs_kernels.FRSDistillationLoss` computes feature loss and head loss.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import frs_kernels as frs
from frs_train import distributed
from frs_train.config import DistillConfig
from frs_train.detectors import Detector, Outputs, Target, compatibility
from frs_train.errors import UserError
from frs_train.training.learner import TERMS, Learner, autocast


class DistilledLearner(Learner):
    """A student that learns from the data and from a teacher.

    `forward` returns the student's losses, and `frs_feature` and `frs_head` with loss weights and warm-up
    applied. The teacher is not a submodule: it is neither saved, nor trained, nor moved to another device.

    Raises:
        UserError: student and teacher do not fit together.
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
        self.use_head = config.method in ("frs", "frs-head") and config.head_weight > 0
        self.use_feats = config.method != "frs-head"
        fit = compatibility(teacher, student, same_classes=same_classes)
        if fit.message:
            warn(fit.message)
        self.use_head = self.use_head and fit.head_loss
        if not self.use_head and not self.use_feats:
            raise UserError(
                "--method frs-head has nothing to learn from: the classification outputs of teacher and "
                "student do not fit. Use the same detector, anchors and classes, or --method frs-feature."
            )
        self.levels = fit.levels
        # With several processes the masks are divided by the normalizer here (see _normalized).
        self.global_sum = distributed.world() > 1 and config.normalizer in ("mask", "mask_all_levels")
        if config.backend not in ("auto", *frs.available_backends()):
            raise UserError(
                f"--backend {config.backend} cannot run here. Use auto or one of "
                f"{', '.join(frs.available_backends())}; `python -m frs_kernels.info` says why."
            )
        if config.adapter == "identity" and self.use_feats and student.feat_channels != teacher.feat_channels:
            raise UserError(
                f"--adapter identity needs equal channels; the teacher has {teacher.feat_channels}, the "
                f"student {student.feat_channels}. Use conv3x3, or another --fpn-width."
            )
        self.loss = frs.FRSDistillationLoss(
            [
                student.feat_channels[s] if self.use_feats else teacher.feat_channels[t]
                for s, t in self.levels
            ],
            [teacher.feat_channels[t] for _, t in self.levels],
            adapter=config.adapter if self.use_feats else "identity",
            feat_weight=config.feat_weight,
            head_weight=config.head_weight,
            warmup_iters=config.warmup_iters,
            normalizer=1.0 if self.global_sum else config.normalizer,
            backend=config.backend,  # pyright: ignore[reportArgumentType]  # checked above
        )

    @property
    def teacher(self) -> Detector:
        return self._teacher[0]

    def forward(self, images: list[Tensor], targets: list[Target], size: int) -> dict[str, Tensor]:
        taught = self.teach(images, size)
        outputs = self.student(images, targets, size=size)
        distilled = self.loss(
            [outputs.feats[s] for s, _ in self.levels] if self.use_feats else None,
            [taught.feats[t] for _, t in self.levels] if self.use_feats else None,
            student_logits=[outputs.cls_logits[s] for s, _ in self.levels] if self.use_head else None,
            teacher_logits=[taught.cls_logits[t] for _, t in self.levels],
            masks=self.masks(taught, targets, images),
        )
        losses = dict(outputs.losses)
        self.level_losses = {}
        if self.use_feats:
            losses["frs_feature"] = distilled.feature
            self.level_losses[TERMS["frs_feature"]] = distilled.feature_levels
        if self.use_head:
            losses["frs_head"] = distilled.head
            self.level_losses[TERMS["frs_head"]] = distilled.head_levels
        return losses

    def set_step(self, step: int) -> None:
        self.loss.set_step(step)

    def teach(self, images: list[Tensor], size: int) -> Outputs:
        """The teacher's features, logits and masks of a batch, as constants."""
        with torch.inference_mode(), autocast(images[0].device, self.config.teacher_amp):
            return self.teacher(images, size=size, masks=self.config.method.startswith("frs"))

    def masks(self, taught: Outputs, targets: list[Target], images: list[Tensor]) -> list[Tensor]:
        """The masks [B, H, W] of the shared levels, by the method of the configuration."""
        if self.config.method == "whole-map":
            masks = [torch.ones_like(taught.feats[t][:, 0], dtype=torch.float32) for _, t in self.levels]
        elif self.config.method == "gt-box":
            masks = box_masks(taught, targets, images, [self.teacher.strides[t] for _, t in self.levels])
        else:
            # Copied, because autograd cannot save tensors created in inference mode. Masks are small.
            masks = [taught.masks[t].clone() for _, t in self.levels]
        if not self.global_sum:
            return masks
        return _normalized(masks, all_levels=self.config.normalizer == "mask_all_levels")


def box_masks(
    taught: Outputs, targets: list[Target], images: list[Tensor], strides: list[int]
) -> list[Tensor]:
    """One float32 mask [B, H, W] per level: 1 if the centre of the location is in a box, else 0."""
    height, width = taught.padded_size
    masks = []
    for stride in strides:
        ys = (torch.arange(-(-height // stride), device=images[0].device) + 0.5) * stride
        xs = (torch.arange(-(-width // stride), device=images[0].device) + 0.5) * stride
        level = []
        for image, target, (h, w) in zip(images, targets, taught.image_sizes, strict=True):
            x1, y1, x2, y2 = (target["boxes"] * target["boxes"].new_tensor(_ratio(image, h, w))).unbind(1)
            in_y = (ys >= y1[:, None]) & (ys < y2[:, None])
            in_x = (xs >= x1[:, None]) & (xs < x2[:, None])
            level.append((in_y[:, :, None] & in_x[:, None, :]).any(0).float())
        masks.append(torch.stack(level))
    return masks


def _ratio(image: Tensor, height: int, width: int) -> list[float]:
    return [width / image.shape[-1], height / image.shape[-2]] * 2


def _normalized(masks: list[Tensor], all_levels: bool) -> list[Tensor]:
    """Masks divided by the mean over all processes of their sums, each or all levels together. DDP averages
    the gradients of the processes; with these masks the average is the gradient of one process with the whole
    batch."""
    sums = distributed.mean(torch.stack([mask.sum() for mask in masks]))
    if all_levels:
        sums = sums.sum().expand_as(sums)
    return [torch.where(total > 0, mask / total, 0.0) for mask, total in zip(masks, sums, strict=True)]
