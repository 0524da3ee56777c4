"""The losses that compare softmax distributions: LD, CWD and Hinton's KD, all `frs_kernels.weighted_kl`.

Sources: Zheng et al., "Localization Distillation for Dense Object Detection", CVPR 2022, arXiv 2102.12252
(LD); Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, arXiv 2011.13256
(CWD); Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531 (KD).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import frs_kernels as frs
from frs_train.config import DistillConfig
from frs_train.detectors import Compatibility, Detector, Outputs
from frs_train.errors import UserError
from frs_train.training.masks import MASK_SUMS, mask_sums
from frs_train.training.terms import Term, adapter_channels

EDGES = 4  # left, top, right, bottom


class SoftmaxTerm(nn.Module):
    """A term of Kullback-Leibler divergences, with its weight and warm-up; a subclass says of what.

    Each level is a call of its own, because `weighted_kl` returns no values by level.
    """

    name: str
    has_masks, has_logits, has_edges = True, False, False

    def __init__(self, config: DistillConfig, weight: float, temperature: float, **options: Any):
        super().__init__()
        self.weight, self.warmup_iters, self.normalizer = weight, config.warmup_iters, config.normalizer
        self.options = {"temperature": temperature, "backend": config.backend, **options}
        self.set_step(0)

    def set_step(self, step: int) -> None:
        """Sets the number of optimizer steps taken, which the warm-up counts."""
        self.warmup = min(1.0, step / self.warmup_iters) if self.warmup_iters else 1.0

    def check_backend(self, device: torch.device) -> None:
        """Raises `UserError` if a backend is named that has no such loss on the device."""
        if self.options["backend"] == "auto":
            return
        probe = torch.zeros(1, 2 * self.options.get("groups", 1), 1, 1, device=device)
        try:
            frs.weighted_kl(probe, probe, **self.options)
        except RuntimeError as error:
            raise UserError(
                f"--backend {self.options['backend']} cannot compute --method {self.name}: {error}. "
                "Use --backend auto."
            ) from None

    def compared(self, student: Outputs, teacher: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        """The student's and the teacher's logits [B, C, H, W] of each level."""
        raise NotImplementedError

    def terms(self, student: Outputs, teacher: Outputs, masks: list[Tensor]) -> dict[str, Term]:
        """The term by name, from the outputs on the shared levels and the masks [B, H, W]."""
        students, teachers = self.compared(student, teacher)
        weights = masks if self.has_masks else [None] * len(students)
        divisors: list[Any] = self.divisors(masks) if self.has_masks else ["mask"] * len(students)
        scale = self.weight * self.warmup
        levels = torch.stack(
            [
                frs.weighted_kl(s, t, w, normalizer=z, scale=scale, **self.options)
                for s, t, w, z in zip(students, teachers, weights, divisors, strict=True)
            ]
        )
        return {self.name: Term(levels.sum(), levels.detach())}

    def divisors(self, masks: list[Tensor]) -> list[Any]:
        """The normalizer of each level."""
        if self.normalizer in MASK_SUMS:
            return mask_sums(masks, self.normalizer)
        return [self.normalizer] * len(masks)


class LD(SoftmaxTerm):
    """Localization distillation: the distributions of the four edges of a box, at every location."""

    name, has_edges = "ld", True

    def __init__(self, student: Detector, teacher: Detector, config: DistillConfig, fit: Compatibility):
        if fit.edge_difference:
            raise UserError(
                "--method ld compares the distributions of box edges, and these do not fit: "
                f"{fit.edge_difference}. Use gfl with one --anchor-size for both, or another --method."
            )
        super().__init__(config, config.ld_weight, config.ld_temperature, groups=EDGES)

    def compared(self, student, teacher):
        return student.edge_logits, teacher.edge_logits


class KD(SoftmaxTerm):
    """Hinton's distillation: the distribution over the classes of an anchor, at every location."""

    name, has_logits = "kd", True

    def __init__(self, student: Detector, teacher: Detector, config: DistillConfig, fit: Compatibility):
        if fit.logit_difference:
            raise UserError(
                f"--method kd compares classification logits, and these do not fit: {fit.logit_difference}. "
                "Use the same detector, anchors and classes, or another --method."
            )
        if student.logit_channels == student.num_anchors:
            what = "the RPN of a faster-rcnn has" if student.family == "faster-rcnn" else "the data has"
            raise UserError(
                f"--method kd compares the classes of an anchor, and {what} only one. Use --method frs-head, "
                "which compares each class on its own."
            )
        super().__init__(config, config.kd_weight, config.kd_temperature, groups=student.num_anchors)

    def compared(self, student, teacher):
        return student.cls_logits, teacher.cls_logits


class CWD(SoftmaxTerm):
    """Channel-wise distillation: the distribution over the locations of each channel of the features.

    It is a mean over images and channels, and has no mask.
    """

    name, has_masks = "cwd", False

    def __init__(self, student: Detector, teacher: Detector, config: DistillConfig, fit: Compatibility):
        channels = adapter_channels(student, teacher, fit.levels, config)
        super().__init__(config, config.cwd_weight, config.cwd_temperature, over="locations")
        self.adapter = frs.FeatureAdapter(*channels, kind=config.adapter)

    def compared(self, student, teacher):
        return self.adapter(student.feats), teacher.feats


SOFTMAX_TERMS: dict[str, type[LD | KD | CWD]] = {kind.name: kind for kind in (LD, CWD, KD)}
"""By `--method`, which has the name of the term."""
