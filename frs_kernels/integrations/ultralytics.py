"""FRS distillation inside Ultralytics: its own imitation loss through our kernels, and what it lacks.

``DistillationModel.loss_sl2`` of Ultralytics computes, for one level, the FRS imitation loss with the
normalizer "mask_channels". :func:`use_frs_kernels` puts a fused one in its place;
:class:`FRSTrainer` does that around a training, adds a head loss and a warm-up, and keeps ``compile``::

    from frs_kernels.integrations.ultralytics import FRSTrainer
    YOLO("yolo26n.pt").train(trainer=FRSTrainer, distill_model="yolo26s.pt", data="coco8.yaml")

Only attributes of that class that its subclasses could use are relied on, and no module of ours gets
into a checkpoint. Ultralytics is licensed AGPL-3.0 and is not part of this package.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator

from torch import Tensor

from frs_kernels.integrations import need
from frs_kernels.ops import weighted_bce, weighted_mse

REQUIREMENT = "ultralytics>=8.4.80"  # tested with 8.4.80, 8.4.120, 8.4.160 and 8.4.190
HOOK = ["self", "student_feat", "teacher_feat", "feat_idx", "teacher_scores"]

need("ultralytics", REQUIREMENT)

from ultralytics import __version__ as ULTRALYTICS_VERSION  # noqa: E402
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.nn.tasks import guess_model_task  # noqa: E402


@contextlib.contextmanager
def use_frs_kernels(
    *, head_weight: float = 0.0, factor: Callable[[], float] | None = None, backend: str = "auto"
) -> Iterator[None]:
    """Within it, distillation losses of Ultralytics are computed by frs_kernels.

    With the defaults losses and gradients are those of Ultralytics. It replaces a method of the class
    ``DistillationModel``, for every instance in this process, and puts the old one back at the end.

    Args:
        head_weight: adds the FRS head loss: ``dis * (imitation + head_weight * head)`` where ``dis`` is
            the setting of that name. The cross-entropy between the class scores of student and teacher
            is normalized per level with the sum of the weights, and averaged over the one-to-many and
            one-to-one branches. The teacher needs the student's classes.
        factor: called for every level; multiplies the distillation loss (a warm-up, a schedule).
        backend: as in :func:`frs_kernels.weighted_mse`.

    Raises:
        RuntimeError: if this version of Ultralytics does not have the method where it is looked for.
    """
    model = distillation_model()
    theirs = model.loss_sl2

    def loss_sl2(self, student_feat, teacher_feat, feat_idx, teacher_scores):
        score = teacher_scores[feat_idx].flatten(1)
        scale = 1.0 if factor is None else factor()
        loss = weighted_mse(
            student_feat, teacher_feat, score, normalizer="mask_channels", scale=scale, backend=backend
        )
        if head_weight:
            loss = loss + scale * _head_loss(self, feat_idx, score, head_weight, backend)
        return loss

    model.loss_sl2 = loss_sl2
    try:
        yield
    finally:
        model.loss_sl2 = theirs


class FRSTrainer(DetectionTrainer):
    """Ultralytics' trainer of detectors with the fused loss: ``YOLO(...).train(trainer=FRSTrainer, ...)``.

    All arguments of ``train`` keep their meaning; ``compile`` is obeyed where Ultralytics turns it off:
    student and teacher are compiled, the loss between them need not be. Subclass it to set what
    ``train`` has no argument for; workers of a multi-GPU run get the subclass too.

    Attributes:
        head_weight: weight of the head loss beside the imitation loss, see :func:`use_frs_kernels`.
        warmup_iters: the distillation loss grows linearly from 0 during so many optimiser steps, however
            many batches ``nbs`` makes of one; a resumed run goes on where it was.
        backend: as in :func:`frs_kernels.weighted_mse`.

    Raises:
        ValueError: without a teacher, or for a model of another task than detection.
    """

    head_weight: float = 0.0
    warmup_iters: int = 0
    backend: str = "auto"

    def __init__(self, *args, **kwargs):
        distillation_model()
        super().__init__(*args, **kwargs)
        if self.args.distill_model is None:
            raise ValueError("FRSTrainer distils: give train(...) distill_model=, the path of a teacher")

    def train(self):
        with use_frs_kernels(head_weight=self.head_weight, factor=self.warmup_factor, backend=self.backend):
            return super().train()

    def warmup_factor(self) -> float:
        """What the distillation loss of the current batch is multiplied with."""
        if self.warmup_iters <= 0:
            return 1.0
        steps = self.ema.updates  # one an optimiser step, in every process, and restored from checkpoints
        return min(steps / self.warmup_iters, 1.0)

    def get_model(self, *args, **kwargs):
        model = super().get_model(*args, **kwargs)
        task = guess_model_task(model)
        if task != "detect":
            raise ValueError(
                f"FRSTrainer trains models for the task detect, {self.args.model} is for the task {task}: "
                "train it with its own trainer within use_frs_kernels()"
            )
        return model

    def save_model(self):
        self.args.compile = self.compile_mode  # into the checkpoint, for a resumed run
        try:
            return super().save_model()
        finally:
            self.args.compile = False

    def _setup_train(self):
        """Compiles the two networks in place: hooks, checkpoints and the EMA see the modules they know."""
        self.compile_mode, self.args.compile = self.args.compile, False
        super()._setup_train()
        if self.compile_mode:
            model = getattr(self.model, "module", self.model)
            for network in (model.student_model, model.teacher_model):
                network.compile(mode="default" if self.compile_mode is True else self.compile_mode)


def distillation_model() -> type:
    """The class whose loss is replaced. Raises RuntimeError where this version has another one."""
    try:
        from ultralytics.nn.distill_model import DistillationModel
    except ImportError:
        raise _moved("has no ultralytics.nn.distill_model.DistillationModel") from None
    found = getattr(DistillationModel, "loss_sl2", None)
    arguments = None if found is None else list(inspect.signature(found).parameters)
    if arguments != HOOK:
        raise _moved(f"has DistillationModel.loss_sl2 with arguments {arguments}, not {HOOK}")
    return DistillationModel


def _moved(what: str) -> RuntimeError:
    return RuntimeError(
        f"ultralytics {ULTRALYTICS_VERSION} {what}: its distillation loss is not where this integration "
        f'looks for it. Install a version it is written for (pip install "{REQUIREMENT}"), or call '
        "frs_kernels.weighted_mse in your own loss."
    )


def _head_loss(model, level: int, score: Tensor, weight: float, backend: str) -> Tensor:
    """The weighted cross-entropy between class scores at one level, averaged over the head's branches."""
    try:
        # Keyed by level or by layer, as the version has it: the features in order, then what the head gave.
        *neck, teacher_head = (value for _, value in sorted(model._teacher_feats.items()))
        *_, student_head = (value for _, value in sorted(model._student_feats.items()))
        branches = [
            [model.decouple_outputs(head, branch=branch)["scores"] for head in (student_head, teacher_head)]
            for branch in ("one2many", "one2one")
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _moved(f"keeps the outputs of its heads elsewhere ({error!r})") from error
    sizes = [feat.shape[-2] * feat.shape[-1] for feat in neck]
    losses = []
    for student, teacher in branches:
        if student.shape != teacher.shape:
            raise ValueError(
                f"head_weight={weight} needs a teacher with the student's classes: student scores "
                f"{list(student.shape)}, teacher scores {list(teacher.shape)}"
            )
        student, teacher = (scores.split(sizes, dim=-1)[level] for scores in (student, teacher))
        losses.append(weighted_bce(student, teacher, score, scale=weight, backend=backend))
    return sum(losses) / len(losses)
