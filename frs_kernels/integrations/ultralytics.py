"""FRS distillation inside Ultralytics: its imitation loss by fused kernels, a head term and a warm-up.

``DistillationModel.loss_sl2`` of Ultralytics computes, for one level, the FRS imitation term with the
normalizer "mask_channels". :func:`use_frs_kernels` replaces it by a fused one. :class:`FRSTrainer` does so
during a training, adds a head term and a warm-up, and makes ``compile`` work::

    from .ultralytics import FRSTrainer
    YOLO("yolo26n.pt").train(trainer=FRSTrainer, distill_model="yolo26s.pt", data="coco8.yaml")

Every task that Ultralytics distils has its trainer: :class:`FRSTrainer`, :class:`FRSSegmentationTrainer`,
:class:`FRSPoseTrainer`, :class:`FRSOBBTrainer`. For all of them the loss compares the features that enter the
head, weighted by its class scores. Masks, keypoints and angles take no part in it.

It relies only on attributes of that class that a subclass could use too, and checkpoints contain no class of
this package. Ultralytics is licensed AGPL-3.0 and is not part of this package.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from ..contract import Backend
from ..ops import weighted_bce, weighted_mse
from . import need

REQUIREMENT = "ultralytics>=8.4.80"  # tested with 8.4.80, 8.4.120, 8.4.160 and 8.4.190
LOSS_SL2_ARGUMENTS = ["self", "student_feat", "teacher_feat", "feat_idx", "teacher_scores"]

need("ultralytics", REQUIREMENT)

from ultralytics import __version__ as ULTRALYTICS_VERSION  # noqa: E402
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.models.yolo.obb import OBBTrainer  # noqa: E402
from ultralytics.models.yolo.pose import PoseTrainer  # noqa: E402
from ultralytics.models.yolo.segment import SegmentationTrainer  # noqa: E402
from ultralytics.nn.tasks import guess_model_task, yaml_model_load  # noqa: E402
from ultralytics.utils import DEFAULT_CFG  # noqa: E402


@contextlib.contextmanager
def use_frs_kernels(
    *, head_weight: float = 0.0, scale: Callable[[], float] | None = None, backend: Backend = "auto"
) -> Iterator[None]:
    """Context manager in which frs_kernels computes the distillation losses of Ultralytics.

    With the defaults, losses and gradients are those of Ultralytics. It replaces a method of the class
    ``DistillationModel``, for every instance in this process, and restores it at the end.

    Args:
        head_weight: weight of the FRS head term: the loss is ``dis * (imitation + head_weight * head)``,
            where ``dis`` is Ultralytics' setting of that name. The head term is the cross-entropy between the
            class scores of student and teacher, with the normalizer "mask", averaged over the one-to-many and
            the one-to-one branch. The teacher needs the student's classes.
        scale: called for every level; its result multiplies the distillation loss (a warm-up, a schedule).
        backend: as in :func:`frs_kernels.weighted_mse`.

    Raises:
        RuntimeError: if this version of Ultralytics has no such method, or one with other arguments.
    """
    model = distillation_model()
    theirs = model.loss_sl2

    def loss_sl2(self, student_feat, teacher_feat, feat_idx, teacher_scores):
        mask = teacher_scores[feat_idx].flatten(1)
        factor = 1.0 if scale is None else scale()
        loss = weighted_mse(
            student_feat, teacher_feat, mask, normalizer="mask_channels", scale=factor, backend=backend
        )
        if head_weight:
            loss = loss + factor * _head_term(self, feat_idx, mask, head_weight, backend)
        return loss

    model.loss_sl2 = loss_sl2
    try:
        yield
    finally:
        model.loss_sl2 = theirs


class FRSTrainer(DetectionTrainer):
    """Ultralytics' trainer of detectors with the fused loss: ``YOLO(...).train(trainer=FRSTrainer, ...)``.

    All arguments of ``train`` keep their meaning. ``compile``, which Ultralytics turns off when it distils,
    compiles student and teacher (the loss between them does not need it). Set the attributes in a subclass:
    ``train`` has no arguments for them. Workers of a multi-GPU run use the subclass too. Named before a
    trainer of your own for that task, this class adds the fused loss to it: ``class Trainer(FRSTrainer,
    YourTrainer)``.

    Attributes:
        task: the task of the models it trains, by Ultralytics' name.
        head_weight: weight of the head term relative to the imitation term, see :func:`use_frs_kernels`.
        warmup_iters: optimizer steps during which the distillation loss grows linearly from 0, however many
            batches ``nbs`` makes of one step; a resumed run continues the warm-up.
        backend: as in :func:`frs_kernels.weighted_mse`.

    Raises:
        ValueError: without a teacher, or for a model of another task.
    """

    task: str = "detect"
    head_weight: float = 0.0
    warmup_iters: int = 0
    backend: Backend = "auto"

    def __init__(self, cfg=DEFAULT_CFG, overrides: dict | None = None, _callbacks: dict | None = None):
        distillation_model()
        overrides = dict(overrides or {})  # the trainers of Ultralytics write their task into it
        self._check_task(overrides.get("task") or self.task, overrides.get("model"))
        super().__init__(cfg, overrides, _callbacks)
        if self.args.distill_model is None:
            name = type(self).__name__
            raise ValueError(f"{name} needs a teacher: pass train(...) distill_model=, the path of one")

    def train(self):
        with use_frs_kernels(head_weight=self.head_weight, scale=self.warmup_factor, backend=self.backend):
            return super().train()

    def warmup_factor(self) -> float:
        """The factor by which the distillation loss of the current batch is multiplied."""
        if self.warmup_iters <= 0:
            return 1.0
        assert self.ema is not None  # made by _setup_train
        steps = self.ema.updates  # one per optimizer step, in every process, and restored from checkpoints
        return min(steps / self.warmup_iters, 1.0)

    def get_model(self, cfg=None, *args, **kwargs):
        task = guess_model_task(cfg if isinstance(cfg, dict) else yaml_model_load(cfg))
        self._check_task(task, self.args.model)
        return super().get_model(cfg, *args, **kwargs)

    def save_model(self):
        self.args.compile = self.compile_mode  # the checkpoint keeps the option, for a resumed run
        try:
            return super().save_model()
        finally:
            self.args.compile = False

    def _setup_train(self):
        """Compiles the two networks in place, so that hooks, checkpoints and the EMA keep their modules."""
        self.compile_mode, self.args.compile = self.args.compile, False
        super()._setup_train()
        if self.compile_mode:
            model: Any = getattr(self.model, "module", self.model)
            for network in (model.student_model, model.teacher_model):
                network.compile(mode="default" if self.compile_mode is True else self.compile_mode)

    def _check_task(self, task: str | None, model) -> None:
        """Raises a ValueError unless ``task``, that of ``model``, is the trainer's."""
        if task == self.task:
            return
        trainers = {kind.task: kind.__name__ for kind in TRAINERS}
        if task not in trainers:
            raise ValueError(
                f"{model} cannot be distilled, its task is {task or 'unknown'}: Ultralytics distils only "
                f"models with a Detect head, which are those for the tasks {', '.join(trainers)}"
            )
        raise ValueError(
            f"{type(self).__name__} trains models for the task {self.task}, {model} is for the task {task}: "
            f"take {trainers[task]}"
        )


class FRSSegmentationTrainer(FRSTrainer, SegmentationTrainer):
    """Ultralytics' trainer of instance segmentation with the fused loss; see :class:`FRSTrainer`."""

    task = "segment"


class FRSPoseTrainer(FRSTrainer, PoseTrainer):
    """Ultralytics' trainer of pose estimation with the fused loss; see :class:`FRSTrainer`."""

    task = "pose"


class FRSOBBTrainer(FRSTrainer, OBBTrainer):
    """Ultralytics' trainer of detectors of oriented boxes with the fused loss; see :class:`FRSTrainer`."""

    task = "obb"


TRAINERS = (FRSTrainer, FRSSegmentationTrainer, FRSPoseTrainer, FRSOBBTrainer)  # one per task


def distillation_model() -> type:
    """The class whose loss is replaced. Raises RuntimeError if it is not as this module expects it."""
    try:
        from ultralytics.nn.distill_model import DistillationModel
    except ImportError:
        raise _unsupported_version("has no ultralytics.nn.distill_model.DistillationModel") from None
    method = getattr(DistillationModel, "loss_sl2", None)
    arguments = None if method is None else list(inspect.signature(method).parameters)
    if arguments != LOSS_SL2_ARGUMENTS:
        raise _unsupported_version(
            f"has DistillationModel.loss_sl2 with arguments {arguments}, not {LOSS_SL2_ARGUMENTS}"
        )
    return DistillationModel


def _unsupported_version(difference: str) -> RuntimeError:
    return RuntimeError(
        f"ultralytics {ULTRALYTICS_VERSION} {difference}: this integration was not written for that. Install "
        f'a version that it supports (pip install "{REQUIREMENT}"), or call frs_kernels.weighted_mse in your '
        "own loss."
    )


def _head_term(model, level: int, mask: Tensor, weight: float, backend: Backend) -> Tensor:
    """The head term of one level, averaged over the head's branches."""
    try:
        # The keys are levels or layers, depending on the version: the features in order, then the head's
        # output.
        *neck, teacher_head = (value for _, value in sorted(model._teacher_feats.items()))
        *_, student_head = (value for _, value in sorted(model._student_feats.items()))
        branches = [
            [model.decouple_outputs(head, branch=branch)["scores"] for head in (student_head, teacher_head)]
            for branch in ("one2many", "one2one")
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unsupported_version(f"stores the outputs of its heads in another form ({error!r})") from error
    sizes = [feat.shape[-2] * feat.shape[-1] for feat in neck]
    losses = []
    for student, teacher in branches:
        if student.shape != teacher.shape:
            raise ValueError(
                f"head_weight={weight} needs a teacher with the student's classes: student scores "
                f"{list(student.shape)}, teacher scores {list(teacher.shape)}"
            )
        student, teacher = (scores.split(sizes, dim=-1)[level] for scores in (student, teacher))
        losses.append(weighted_bce(student, teacher, mask, scale=weight, backend=backend))
    return sum(losses) / len(losses)  # pyright: ignore[reportReturnType]  # of two losses
