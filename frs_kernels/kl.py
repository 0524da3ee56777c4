"""weighted_kl: the softmax family of distillation losses (LD, CWD, Hinton's KD) as one fused function.

:func:`frs_kernels.reference.weighted_kl` defines what it computes, the backends how.
"""

from torch import Tensor

from . import checks, dispatch, reference
from .autograd import fused_kl
from .contract import Backend, Normalizer, Over, Reduction, Scalar
from .inputs import KLInputs
from .levels import Levels


def weighted_kl(
    student: Levels,
    teacher: Levels,
    weight: Levels | None = None,
    *,
    over: Over = "channels",
    groups: int = 1,
    temperature: float = 1.0,
    normalizer: Normalizer = "mask",
    scale: Scalar = 1.0,
    reduction: Reduction = "sum",
    backend: Backend = "auto",
) -> Tensor:
    """Kullback-Leibler divergence between softmax distributions, weighted by a map.

    ``scale * tau^2 * sum_l 1/Z_l sum w KL(p || q)`` with ``p = softmax(T / tau)``, ``q = softmax(s / tau)``.
    Gradients flow to ``student`` only. Of the fused backends they are exactly 0 where student equals teacher.
    A logit of -Inf in both is a class or bin that neither has.

    Args:
        student: logits s, ``[B, C, H, W]`` or ``[B, C, L]``, or a sequence of levels. float32, float16,
            bfloat16 or float64.
        teacher: logits T of the same shapes; the dtype may differ.
        weight: w. Over channels: one per location, as the masks of :func:`frs_kernels.weighted_mse`: an FRS
            mask, a mask of boxes. Over locations: one per channel, ``[B, C]``. None: 1 everywhere.
        over: "channels": a softmax over the channels of every location (LD, Hinton's KD). "locations": a
            softmax over the H x W locations of every channel (CWD).
        groups: over channels, the softmaxes of a location, each over ``C / groups`` adjacent channels: 4 for
            the edges of a box in GFL, the anchors for logits of several. w weights all of them.
        temperature: tau > 0, a number.
        normalizer: Z_l as in :func:`frs_kernels.weighted_mse`, with w in place of S. "mask", the sum of w,
            averages over the locations, or over the channels.
        scale, reduction: as in :func:`frs_kernels.weighted_mse`.
        backend: "auto", "native" (CPU), "triton" or "eager".

    Returns:
        a 0-d tensor, or ``[B]`` for ``reduction="none"``; float32 (float64 for float64 inputs).

    Raises:
        ValueError, TypeError: for arguments that do not fit, naming argument, level and both shapes; for
            weights that require a gradient, or a teacher that does while the student does not.
        RuntimeError: if the requested backend cannot run; the message says why.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), eq. 1 and section 2; Zheng
    et al., "Localization Distillation for Dense Object Detection" (CVPR 2022); Shu et al., "Channel-wise
    Knowledge Distillation for Dense Prediction" (ICCV 2021), eq. 1 to 3.
    """
    checks.check_reduction(reduction)
    inputs = checks.check_kl(
        KLInputs(
            student=checks.as_levels("student", student),
            teacher=checks.as_levels("teacher", teacher),
            weights=checks.as_masks("weight", weight),
            over=over,
            groups=groups,
            temperature=temperature,
            normalizer=normalizer,
            scale=scale,
            per_image=reduction == "none",
        )
    )
    if reduction == "mean":
        inputs.scale = inputs.scale / max(inputs.student[0].shape[0], 1)
    chosen = dispatch.select(backend, inputs)
    if chosen.NAME == "eager":
        return _run_reference(inputs)
    return fused_kl(chosen.namespace().name, inputs.canonical())


def _run_reference(inputs: KLInputs) -> Tensor:
    return reference.weighted_kl(
        inputs.student,
        inputs.teacher,
        inputs.weights or None,
        over=inputs.over,
        groups=inputs.groups,
        temperature=inputs.temperature,
        normalizer=inputs.normalizer,
        scale=inputs.scale,
        reduction="none" if inputs.per_image else "sum",
    )
