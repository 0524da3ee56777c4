"""nn.Modules around :func:`frs_kernels.frs_loss`: channel adapters, weights, warm-up."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frs_kernels.levels import Levels
from frs_kernels.ops import frs_loss
from frs_kernels.reference import FRSLossOutput

ADAPTERS = ("conv3x3", "conv1x1", "mlp1x1", "identity")


class FeatureAdapter(nn.Module):
    """Brings the student's features to the teacher's channels (and size), one adapter a level.

    Args:
        student_channels, teacher_channels: D of the student's and the teacher's features: one number for
            all levels, or one a level.
        num_levels: how many levels; may be left out if one of the channels is a sequence.
        kind: "conv3x3" (the FRS paper, also where the channels agree), "conv1x1", "mlp1x1" (1x1, ReLU,
            1x1) or "identity" (only where the channels agree).
        resize: interpolate (bilinearly) to the sizes given to :meth:`forward` where they differ.

    Raises:
        ValueError: for an unknown kind, or channels that do not fit.
    """

    def __init__(
        self,
        student_channels: int | Sequence[int],
        teacher_channels: int | Sequence[int],
        num_levels: int | None = None,
        *,
        kind: str = "conv3x3",
        resize: bool = False,
    ):
        super().__init__()
        pairs = _channel_pairs(student_channels, teacher_channels, num_levels)
        self.layers = nn.ModuleList(_adapter(kind, *pair) for pair in pairs)
        self.resize = resize

    def forward(self, feats: Levels, sizes: Sequence[tuple[int, int]] | None = None) -> list[Tensor]:
        """Adapts student features ``[B, D, H, W]`` a level.

        Args:
            feats: the student's features, one tensor or a sequence of as many levels as there are adapters.
            sizes: the teacher's ``(H, W)`` of every level, used with ``resize=True``.

        Returns:
            a list of ``[B, D_teacher, H, W]``.
        """
        levels = [feats] if isinstance(feats, Tensor) else list(feats)
        if len(levels) != len(self.layers):
            raise ValueError(f"student features have {len(levels)} levels, the adapter {len(self.layers)}")
        adapted = []
        for level, (layer, feat) in enumerate(zip(self.layers, levels, strict=True)):
            expected = getattr(layer[0] if isinstance(layer, nn.Sequential) else layer, "in_channels", None)
            if expected is not None and feat.shape[1] != expected:
                raise ValueError(
                    f"level {level}: student features {list(feat.shape)} have {feat.shape[1]} channels, "
                    f"the adapter takes {expected}"
                )
            adapted.append(layer(feat))
        if not self.resize or sizes is None:
            return adapted
        return [_resized(feat, size) for feat, size in zip(adapted, sizes, strict=True)]


class FRSDistillationLoss(nn.Module):
    """The FRS loss with what training needs around it: adapters, loss weights and a linear warm-up.

    Give its parameters to the optimiser along with the student's: the adapters are trained.

    Args:
        student_channels, teacher_channels: feature channels, one number or one a level.
        num_levels: levels of the pyramid where both channels are one number.
        adapter: kind of :class:`FeatureAdapter`.
        feat_weight, head_weight: loss weights; the defaults are the paper's for RetinaNet.
        warmup_iters: both weights are multiplied by ``iteration / warmup_iters`` until that is 1; 0 turns
            it off. ``iteration`` counts optimiser steps and is part of ``state_dict``.
        accumulate: forwards in training mode that make one optimiser step, see :meth:`count_steps`.
        normalizer, backend: as in :func:`frs_kernels.frs_loss`.
        resize: let the adapter interpolate the student's features to the teacher's sizes.

    Raises:
        ValueError: for channels or an adapter that do not fit, or ``accumulate`` below 1.

    Source: Du et al. 2021, section 4.1 and the official configurations.
    """

    def __init__(
        self,
        student_channels: int | Sequence[int],
        teacher_channels: int | Sequence[int],
        num_levels: int | None = None,
        *,
        adapter: str = "conv3x3",
        feat_weight: float = 0.005,
        head_weight: float = 0.02,
        warmup_iters: int = 500,
        accumulate: int = 1,
        normalizer: str | float = "mask",
        resize: bool = False,
        backend: str = "auto",
    ):
        super().__init__()
        self.adapter = FeatureAdapter(
            student_channels, teacher_channels, num_levels, kind=adapter, resize=resize
        )
        self.feat_weight = feat_weight
        self.head_weight = head_weight
        self.warmup_iters = warmup_iters
        self.normalizer = normalizer
        self.backend = backend
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        # Forwards of the step under way. No part of a checkpoint: a resumed run begins its step anew.
        self.register_buffer("forwards", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_load_state_dict_post_hook(_begin_step)
        self.count_steps(accumulate)

    def count_steps(self, accumulate: int, forwards: int = 0) -> None:
        """Counts one optimiser step every ``accumulate`` forwards, of which ``forwards`` are done."""
        if accumulate < 1:
            raise ValueError(f"accumulate={accumulate} forwards make no optimiser step: give 1 or more")
        self.accumulate = accumulate
        self.forwards.fill_(forwards)

    def forward(
        self,
        student_feats: Levels | None,
        teacher_feats: Levels | None,
        teacher_logits: Levels | None,
        student_logits: Levels | None = None,
        *,
        masks: Levels | None = None,
    ) -> FRSLossOutput:
        """The loss of one step; arguments and result as in :func:`frs_kernels.frs_loss`."""
        teacher_feats = _as_list(teacher_feats)
        adapted = None
        if student_feats is not None:
            adapted = self.adapter(student_feats, [feat.shape[-2:] for feat in teacher_feats])
        warmup = self._advance_warmup()
        return frs_loss(
            adapted,
            teacher_feats,
            _as_list(teacher_logits),
            _as_list(student_logits),
            masks=_as_list(masks),
            feat_weight=self.feat_weight * warmup,
            head_weight=self.head_weight * warmup,
            normalizer=self.normalizer,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return (
            f"feat_weight={self.feat_weight}, head_weight={self.head_weight}, "
            f"warmup_iters={self.warmup_iters}, accumulate={self.accumulate}, "
            f"normalizer={self.normalizer!r}, backend={self.backend!r}"
        )

    def _advance_warmup(self) -> float | Tensor:
        """The warm-up factor of this step, on the device once it is not known to be 1."""
        if self.warmup_iters <= 0:
            return 1.0
        factor = (self.iteration / self.warmup_iters).clamp(max=1.0)
        if self.training:
            self.forwards += 1
            self.iteration += self.forwards // self.accumulate
            self.forwards %= self.accumulate
        return factor


def _begin_step(loss: FRSDistillationLoss, _) -> None:
    loss.forwards.zero_()


def _as_list(levels: Levels | None) -> list[Tensor] | None:
    if levels is None:
        return None
    return [levels] if isinstance(levels, Tensor) else list(levels)


def _channel_pairs(student, teacher, num_levels) -> list[tuple[int, int]]:
    lengths = {len(c) for c in (student, teacher) if not isinstance(c, int)}
    lengths |= {num_levels} - {None}
    if len(lengths) != 1:
        raise ValueError(
            f"student_channels={student}, teacher_channels={teacher} and num_levels={num_levels} "
            "do not say how many levels there are: give num_levels, or one number of channels a level"
        )
    (count,) = lengths
    per_level = [[c] * count if isinstance(c, int) else list(c) for c in (student, teacher)]
    return list(zip(*per_level, strict=True))


def _adapter(kind: str, student: int, teacher: int) -> nn.Module:
    if kind == "conv3x3":
        return nn.Conv2d(student, teacher, kernel_size=3, padding=1)
    if kind == "conv1x1":
        return nn.Conv2d(student, teacher, kernel_size=1)
    if kind == "mlp1x1":
        return nn.Sequential(nn.Conv2d(student, teacher, 1), nn.ReLU(), nn.Conv2d(teacher, teacher, 1))
    if kind != "identity":
        raise ValueError(f"adapter kind {kind!r} is none of {ADAPTERS}")
    if student != teacher:
        raise ValueError(f"kind='identity' needs equal channels, got student {student} and teacher {teacher}")
    return nn.Identity()


def _resized(feat: Tensor, size: tuple[int, int]) -> Tensor:
    if feat.shape[-2:] == tuple(size):
        return feat
    return F.interpolate(feat, size=tuple(size), mode="bilinear", align_corners=False)
