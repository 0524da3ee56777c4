"""Losses, connector and warm-up hook for MMRazor's ``ConfigurableDistiller``, by configuration alone.

They are registered in MMEngine's root registries, to which those of MMRazor and MMDetection fall back::

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
    custom_hooks = [dict(type="FRSWarmupHook")]

Features are the output of a neck (a sequence of levels) or one level. Logits are the output of a head
(classification first), its list of levels, or one level. The losses of single levels add up to the loss of
all.
"""

from typing import Any

from torch import Tensor, nn

from ..contract import Backend, Normalizer
from ..kl import weighted_kl
from ..levels import Levels, as_list
from ..modules import FeatureAdapter, FRSDistillationLoss
from ..ops import frs_loss, frs_mask, weighted_bce
from . import configurable, need
from .hooks import class_logits, softmax_logits

need("mmengine")

from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import HOOKS, MODELS  # noqa: E402


@MODELS.register_module()
@configurable
class FRSLoss(FRSDistillationLoss):
    """The whole method: adapters, both terms and warm-up; takes the arguments of FRSDistillationLoss.

    The runner's optimizer trains its adapters. FRSWarmupHook tells the loss the optimizer's steps; with a
    warm-up and without the hook, the first forward raises RuntimeError.
    """

    _remedy = 'add dict(type="FRSWarmupHook") to custom_hooks'

    # MMRazor passes what its recorders hold, by the names of a configuration.
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, s_feature: Levels, t_feature: Levels, t_logits: Any, s_logits: Any = None
    ) -> Tensor:
        """The loss to minimise, a 0-d tensor; without ``s_logits`` there is no head term."""
        student_logits = None if s_logits is None else class_logits(s_logits)
        loss = super().forward(
            s_feature, t_feature, student_logits=student_logits, teacher_logits=class_logits(t_logits)
        )
        return loss.total


@MODELS.register_module()
@configurable
class FRSConnector(FeatureAdapter):
    """FeatureAdapter as a connector for the student's features: all levels of a neck, or one level."""

    # MMRazor calls a connector with the feature alone.
    def forward(self, feature: Levels) -> list[Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(feature)


class _Term(nn.Module):
    """One term of the loss with its weight, and with ``warmup_factor``, which FRSWarmupHook sets."""

    def __init__(self, loss_weight: float = 1.0, normalizer: Normalizer = "mask", backend: Backend = "auto"):
        super().__init__()
        self.loss_weight = loss_weight
        self.normalizer: Normalizer = normalizer
        self.backend: Backend = backend
        self.warmup_factor = 1.0


@MODELS.register_module()
@configurable
class FRSFeatureLoss(_Term):
    """The imitation term alone, for features of equal channels and sizes (use FRSConnector)."""

    def forward(self, s_feature: Levels, t_feature: Levels, t_logits: Any) -> Tensor:
        return frs_loss(
            as_list(s_feature), as_list(t_feature), teacher_logits=class_logits(t_logits),
            feat_weight=self.loss_weight * self.warmup_factor,
            normalizer=self.normalizer, backend=self.backend,
        ).feature  # fmt: skip


@MODELS.register_module()
@configurable
class FRSHeadLoss(_Term):
    """The head term alone.

    Args:
        beta: above 0, the quality focal form (CrossKD).
        masked: False for a mask of ones in place of the FRS mask.
        loss_weight, normalizer, backend: ``scale``, and the others, of :func:`frs_kernels.weighted_bce`.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        beta: float = 0.0,
        masked: bool = True,
        normalizer: Normalizer = "mask",
        backend: Backend = "auto",
    ):
        super().__init__(loss_weight, normalizer, backend)
        self.beta = beta
        self.masked = masked

    def forward(self, s_logits: Any, t_logits: Any) -> Tensor:
        student, teacher = class_logits(s_logits), class_logits(t_logits)
        if self.masked:
            masks = frs_mask(teacher)
        else:
            masks = [t.new_ones((t.shape[0], *t.shape[2:])) for t in teacher]
        return weighted_bce(
            student, teacher, masks,
            beta=self.beta, scale=self.loss_weight * self.warmup_factor,
            normalizer=self.normalizer, backend=self.backend,
        )  # fmt: skip


@MODELS.register_module()
@configurable
class FRSKLDivergence(_Term):
    """MMRazor's KLDivergence for all levels at once, of class logits or of the bins of box edges (LD).

    Args:
        tau: the temperature.
        groups: the softmaxes of a location, each over as many adjacent channels: 4 for the edges of GFL.
        normalizer: the default is MMRazor's ``reduction="batchmean"``; 1.0 is its ``"sum"``, and "numel" its
            ``"mean"``.
    """

    def __init__(
        self,
        tau: float = 1.0,
        loss_weight: float = 1.0,
        groups: int = 1,
        normalizer: Normalizer = "batch",
        backend: Backend = "auto",
    ):
        super().__init__(loss_weight, normalizer, backend)
        self.tau = tau
        self.groups = groups

    # MMRazor's configurations have these two names.
    def forward(self, preds_S: Any, preds_T: Any, t_logits: Any = None) -> Tensor:
        """The FRS mask of the teacher's class logits ``t_logits``, if given, weights the locations."""
        return weighted_kl(
            softmax_logits(preds_S), softmax_logits(preds_T),
            None if t_logits is None else frs_mask(softmax_logits(t_logits)),
            groups=self.groups, temperature=self.tau, scale=self.loss_weight * self.warmup_factor,
            normalizer=self.normalizer, backend=self.backend,
        )  # fmt: skip


@MODELS.register_module()
@configurable
class FRSChannelWiseDivergence(_Term):
    """MMRazor's ChannelWiseDivergence (CWD) for all levels at once; ``tau`` is the temperature."""

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0, backend: Backend = "auto"):
        super().__init__(loss_weight, "mask", backend)
        self.tau = tau

    def forward(self, preds_S: Levels, preds_T: Levels) -> Tensor:
        return weighted_kl(
            as_list(preds_S), as_list(preds_T), over="locations",
            temperature=self.tau, scale=self.loss_weight * self.warmup_factor,
            normalizer=self.normalizer, backend=self.backend,
        )  # fmt: skip


@HOOKS.register_module()
@configurable
class FRSWarmupHook(Hook):
    """Linear warm-up of the weights of all these losses, counted in optimizer steps.

    One optimizer step takes ``accumulative_counts`` iterations, an option of the runner's ``optim_wrapper``.
    The steps are the runner's, so a resumed run continues the warm-up.

    Args:
        iters: optimizer steps until the full weights of all losses but FRSLoss apply, which has its own
            ``warmup_iters``.
    """

    def __init__(self, iters: int = 500):
        self.iters = iters
        self.accumulate = 1

    def before_train(self, runner) -> None:
        self.accumulate = getattr(runner.optim_wrapper, "_accumulative_counts", 1)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        step = runner.iter // self.accumulate
        for module in runner.model.modules():
            if isinstance(module, FRSDistillationLoss):
                module.set_step(step)
            elif isinstance(module, _Term):
                module.warmup_factor = min(step / self.iters, 1.0)
