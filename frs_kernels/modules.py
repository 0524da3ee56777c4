"""nn.Modules for training: channel adapters, and the FRS loss with its weights and warm-up."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .contract import Backend, Normalizer, Scalar
from .levels import Levels, as_list
from .ops import frs_loss
from .output import FRSLossOutput

Adapter = Literal["conv3x3", "conv1x1", "mlp1x1", "identity"]
ADAPTERS: tuple[Adapter, ...] = ("conv3x3", "conv1x1", "mlp1x1", "identity")


class FeatureAdapter(nn.Module):
    """Maps the student's features to the teacher's channels (and sizes), with one adapter per level.

    Args:
        student_channels, teacher_channels: D of the student's and the teacher's features: one number for all
            levels, or a sequence with one number per level.
        num_levels: the number of levels; may be left out if one of the two is a sequence.
        kind: "conv3x3" (as in the FRS paper, even for equal channels), "conv1x1", "mlp1x1" (1x1, ReLU, 1x1)
            or "identity" (for equal channels only).
        resize: interpolate bilinearly to the sizes given to :meth:`forward` where they differ.

    Raises:
        ValueError: for an unknown kind, or channels that do not fit together.
    """

    def __init__(
        self,
        student_channels: int | Sequence[int],
        teacher_channels: int | Sequence[int],
        num_levels: int | None = None,
        *,
        kind: Adapter = "conv3x3",
        resize: bool = False,
    ) -> None:
        super().__init__()
        channels = _channels_per_level(student_channels, teacher_channels, num_levels)
        self.layers = nn.ModuleList(_adapter(kind, student, teacher) for student, teacher in channels)
        self.resize = resize

    def forward(self, feats: Levels, sizes: Sequence[Sequence[int]] | None = None) -> list[Tensor]:
        """Adapts the student's features.

        Args:
            feats: one tensor ``[B, D, H, W]``, or a sequence of as many levels as there are adapters.
            sizes: the teacher's ``(H, W)`` of every level, used with ``resize=True``.

        Returns:
            a list with one ``[B, D_teacher, H, W]`` per level.

        Raises:
            ValueError: for another number of levels or of channels than the adapters take.
        """
        levels = as_list(feats)
        if len(levels) != len(self.layers):
            raise ValueError(f"student features have {len(levels)} levels, the adapter {len(self.layers)}")
        adapted: list[Tensor] = []
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
        return [resized(feat, size) for feat, size in zip(adapted, sizes, strict=True)]


class FRSDistillationLoss(nn.Module):
    """The FRS loss as a training needs it: with adapters, loss weights and a linear warm-up.

    Pass its parameters to the optimizer together with the student's: the adapters are trained. The warm-up
    has to know the optimizer's steps, which gradient accumulation makes fewer than the forwards: call
    :meth:`count_steps` once, or :meth:`set_step` before every step::

        distil = FRSDistillationLoss(256, 256, num_levels=5)
        optimizer = SGD([*student.parameters(), *distil.parameters()], lr=0.01)
        distil.count_steps(optimizer)
        loss = distil(student_feats, teacher_feats, student_logits=..., teacher_logits=...)

    Args:
        student_channels, teacher_channels: feature channels, one number for all levels or one per level.
        num_levels: the number of levels, if both of these are one number.
        adapter: the kind of :class:`FeatureAdapter`.
        feat_weight, head_weight: loss weights; the defaults are the paper's for RetinaNet.
        warmup_iters: optimizer steps during which both weights grow linearly from 0; 0 turns the warm-up off.
            The steps taken are the buffer ``iteration``, a part of ``state_dict``.
        normalizer, backend: as in :func:`frs_kernels.frs_loss`.
        resize: let the adapters interpolate the student's features to the teacher's sizes.

    Raises:
        ValueError: for channels or an adapter that do not fit.

    Source: Du et al. 2021, section 4.1 and the official configurations.
    """

    iteration: Tensor
    # What the error of a warm-up that does not know the optimizer's steps advises.
    _remedy = "call count_steps(optimizer) once, or set_step(step) before every step"

    def __init__(
        self,
        student_channels: int | Sequence[int],
        teacher_channels: int | Sequence[int],
        num_levels: int | None = None,
        *,
        adapter: Adapter = "conv3x3",
        feat_weight: float = 0.005,
        head_weight: float = 0.02,
        warmup_iters: int = 500,
        normalizer: Normalizer = "mask",
        resize: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.adapter = FeatureAdapter(
            student_channels, teacher_channels, num_levels, kind=adapter, resize=resize
        )
        self.feat_weight = feat_weight
        self.head_weight = head_weight
        self.warmup_iters = warmup_iters
        self.normalizer: Normalizer = normalizer
        self.backend: Backend = backend
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        self._is_told_the_steps = False

    def count_steps(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Makes the warm-up count the steps of ``optimizer`` from here on, by a hook on them.

        Call it once in every process, also in a resumed run: no checkpoint contains the hook. A step that a
        gradient scaler skips does not count, except of an optimizer with ``fused=True``, which the scaler
        calls even then. ``.remove()`` of the result ends the counting.
        """
        self._is_told_the_steps = True
        return optimizer.register_step_post_hook(self._count_step)

    def set_step(self, step: int) -> None:
        """Sets the number of optimizer steps taken, for a training loop that counts them itself."""
        self._is_told_the_steps = True
        self.iteration.fill_(step)

    def forward(
        self,
        student_feats: Levels | None,
        teacher_feats: Levels | None,
        *,
        student_logits: Levels | None = None,
        teacher_logits: Levels | None = None,
        masks: Levels | None = None,
    ) -> FRSLossOutput:
        """The loss of one forward; arguments and result as in :func:`frs_kernels.frs_loss`.

        Raises:
            RuntimeError: in training mode with a warm-up, before count_steps or set_step was called: the
                weights would stay 0.
        """
        teacher_feats = _as_list_or_none(teacher_feats)
        adapted = None
        if student_feats is not None:
            sizes = [feat.shape[-2:] for feat in teacher_feats or []]
            adapted = self.adapter(student_feats, sizes)
        warmup = self._warmup_factor()
        return frs_loss(
            adapted,
            teacher_feats,
            student_logits=_as_list_or_none(student_logits),
            teacher_logits=_as_list_or_none(teacher_logits),
            masks=_as_list_or_none(masks),
            feat_weight=self.feat_weight * warmup,
            head_weight=self.head_weight * warmup,
            normalizer=self.normalizer,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return (
            f"feat_weight={self.feat_weight}, head_weight={self.head_weight}, "
            f"warmup_iters={self.warmup_iters}, normalizer={self.normalizer!r}, backend={self.backend!r}"
        )

    def _warmup_factor(self) -> Scalar:
        """What both weights are multiplied by: a tensor, or 1.0 without warm-up."""
        if self.warmup_iters <= 0:
            return 1.0
        if self.training and not self._is_told_the_steps:
            raise RuntimeError(
                f"the warm-up of {self.warmup_iters} steps does not know the optimizer's steps: "
                f"{self._remedy}, or set warmup_iters=0"
            )
        return (self.iteration / self.warmup_iters).clamp(max=1.0)

    def _count_step(self, *_: object) -> None:
        self.iteration += 1


def _as_list_or_none(levels: Levels | None) -> list[Tensor] | None:
    return None if levels is None else as_list(levels)


def _channels_per_level(
    student: int | Sequence[int], teacher: int | Sequence[int], num_levels: int | None
) -> list[tuple[int, int]]:
    """(student's, teacher's channels) of every level."""
    lengths = {len(c) for c in (student, teacher) if not isinstance(c, int)}
    if num_levels is not None:
        lengths.add(num_levels)
    if len(lengths) != 1:
        raise ValueError(
            f"student_channels={student}, teacher_channels={teacher} and num_levels={num_levels} "
            "do not agree on a number of levels: give num_levels, or the channels of every level"
        )
    (count,) = lengths
    students, teachers = ([c] * count if isinstance(c, int) else c for c in (student, teacher))
    return list(zip(students, teachers, strict=True))


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


def resized(feat: Tensor, size: Sequence[int]) -> Tensor:
    """The features, interpolated bilinearly to ``size`` (H, W) if theirs differs."""
    if feat.shape[-2:] == tuple(size):
        return feat
    return F.interpolate(feat, size=list(size), mode="bilinear", align_corners=False)
