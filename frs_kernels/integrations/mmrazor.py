"""FRS losses, connector and warm-up hook for MMRazor's ``ConfigurableDistiller``, by configuration alone.

They are registered in MMEngine's root registries, which those of MMRazor and MMDetection fall back to::

    custom_imports = dict(imports=["frs_kernels.integrations.mmrazor"])
    recorders = dict(
        neck=dict(type="ModuleOutputs", source="neck"), head=dict(type="ModuleOutputs", source="bbox_head"))
    distiller = dict(
        type="ConfigurableDistiller", student_recorders=recorders, teacher_recorders=recorders,
        distill_losses=dict(
            loss_frs=dict(type="FRSLoss", student_channels=256, teacher_channels=256, num_levels=5)),
        loss_forward_mappings=dict(loss_frs=dict(
            s_feature=dict(recorder="neck", from_student=True),
            t_feature=dict(recorder="neck", from_student=False),
            s_logits=dict(recorder="head", from_student=True),
            t_logits=dict(recorder="head", from_student=False))))

Features are what a neck returns (a sequence of levels) or one level; logits what a head returns
(classification first), its list of levels, or one level. A loss per level adds up to the loss of all.
"""

from torch import Tensor, nn

from frs_kernels.integrations import configurable, need
from frs_kernels.integrations.hooks import class_logits
from frs_kernels.levels import Levels
from frs_kernels.modules import FeatureAdapter, FRSDistillationLoss
from frs_kernels.ops import frs_loss, frs_mask, weighted_bce

need("mmengine")

from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import HOOKS, MODELS  # noqa: E402


@MODELS.register_module()
@configurable
class FRSLoss(FRSDistillationLoss):
    """The whole method: adapters, both terms and warm-up; arguments as of FRSDistillationLoss.

    Its adapters are trained by the run's optimiser, its count of optimiser steps is in the checkpoint. Under
    gradient accumulation, list FRSWarmupHook among the hooks.
    """

    def forward(self, s_feature: Levels, t_feature: Levels, t_logits, s_logits=None) -> Tensor:
        """The loss to minimise, a 0-d tensor; without ``s_logits`` there is no head term."""
        heads = class_logits(t_logits), None if s_logits is None else class_logits(s_logits)
        return super().forward(s_feature, t_feature, *heads).total


@MODELS.register_module()
@configurable
class FRSConnector(FeatureAdapter):
    """FeatureAdapter as a connector for the student's features: all levels of the neck, or one."""

    def forward(self, feature: Levels) -> list[Tensor]:
        return super().forward(feature)


class _Term(nn.Module):
    """One term, its weight, and the ``factor`` that FRSWarmupHook sets."""

    def __init__(self, loss_weight: float = 1.0, normalizer: str | float = "mask", backend: str = "auto"):
        super().__init__()
        self.loss_weight = loss_weight
        self.normalizer = normalizer
        self.backend = backend
        self.factor = 1.0


@MODELS.register_module()
@configurable
class FRSFeatureLoss(_Term):
    """The imitation term alone, between features whose channels and sizes agree (use FRSConnector)."""

    def forward(self, s_feature: Levels, t_feature: Levels, t_logits) -> Tensor:
        return frs_loss(
            _levels(s_feature), _levels(t_feature), class_logits(t_logits),
            feat_weight=self.loss_weight * self.factor, normalizer=self.normalizer, backend=self.backend,
        ).feature  # fmt: skip


@MODELS.register_module()
@configurable
class FRSHeadLoss(_Term):
    """The head term alone; with ``beta`` > 0 in quality focal form (CrossKD), ``masked=False`` unweighted."""

    def __init__(
        self,
        loss_weight: float = 1.0,
        beta: float = 0.0,
        masked: bool = True,
        normalizer: str | float = "mask",
        backend: str = "auto",
    ):
        super().__init__(loss_weight, normalizer, backend)
        self.beta = beta
        self.masked = masked

    def forward(self, s_logits, t_logits) -> Tensor:
        student, teacher = class_logits(s_logits), class_logits(t_logits)
        maps = frs_mask(teacher) if self.masked else [t.new_ones((t.shape[0], *t.shape[2:])) for t in teacher]
        return weighted_bce(
            student, teacher, maps,
            beta=self.beta, scale=self.loss_weight * self.factor,
            normalizer=self.normalizer, backend=self.backend,
        )  # fmt: skip


@HOOKS.register_module()
@configurable
class FRSWarmupHook(Hook):
    """Lets the weights of FRSFeatureLoss and FRSHeadLoss grow linearly over the first optimiser steps.

    One step is ``accumulative_counts`` of the runner's ``optim_wrapper`` iterations; FRSLoss, whose warm-up
    is its own, is told so too. The count is the runner's, so a resumed run goes on where it was.

    Args:
        iters: optimiser steps until the weights are reached.
    """

    def __init__(self, iters: int = 500):
        self.iters = iters
        self.accumulate = 1

    def before_train(self, runner) -> None:
        self.accumulate = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
        for module in runner.model.modules():
            if isinstance(module, FRSDistillationLoss):
                module.count_steps(self.accumulate, runner.iter % self.accumulate)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        for module in runner.model.modules():
            if isinstance(module, _Term):
                module.factor = min(runner.iter // self.accumulate / self.iters, 1.0)


def _levels(feature: Levels) -> list[Tensor]:
    return [feature] if isinstance(feature, Tensor) else list(feature)
