"""The public functions. :mod:`frs_kernels.reference` defines what they compute, the backends how."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar, overload

import torch
from torch import Tensor

from . import checks, dispatch, reference, transforms
from .autograd import fused_loss
from .contract import Backend, Normalizer, Reduction, Scalar
from .inputs import LossInputs
from .levels import Levels
from .output import FRSLossOutput
from .torch_private import transforms_are_active

T = TypeVar("T", Scalar, Normalizer)
_ONE_PER_SET = "; only mask_sets may have one value for each set"


@overload
def frs_mask(teacher_logits: Tensor, *, backend: Backend = "auto") -> Tensor: ...
@overload
def frs_mask(teacher_logits: Sequence[Tensor], *, backend: Backend = "auto") -> list[Tensor]: ...
def frs_mask(teacher_logits: Levels, *, backend: Backend = "auto") -> Tensor | list[Tensor]:
    """The FRS mask: the teacher's largest class probability at every location.

    ``S = max_k sigmoid(T_k)``, a constant: no gradient flows to the teacher. Call it for a level as soon as
    the teacher's head has produced that level, while the logits are still in the cache, and pass the masks to
    :func:`frs_loss` as ``masks``.

    Args:
        teacher_logits: ``[B, K, H, W]`` (or ``[B, K, L]``), one tensor or a sequence of levels; K counts
            classes, or anchors x classes. float32, float16, bfloat16 or float64.
        backend: "auto", "native", "triton" or "eager".

    Returns:
        ``[B, H, W]`` (``[B, L]``) in float32, in float64 for float64 logits; a list for a sequence.

    Raises:
        ValueError, TypeError: for arguments that do not fit, naming the level and the shape.
        RuntimeError: if the requested backend cannot run; the message says why.

    Source: eq. 1 of the FRS paper.
    """
    inputs = checks.check(LossInputs(teacher_logits=checks.as_levels("teacher_logits", teacher_logits)))
    chosen = dispatch.select(backend, inputs)
    with torch.no_grad():
        if chosen.NAME == "eager":
            masks = reference.frs_mask(inputs.teacher_logits)
        elif transforms_are_active(inputs):
            masks = transforms.mask(chosen.namespace().name, inputs)
        else:
            masks = chosen.namespace().mask(inputs.canonical().teacher_logits)
    return masks[0] if isinstance(teacher_logits, Tensor) else masks


def weighted_mse(
    student_feats: Levels,
    teacher_feats: Levels,
    masks: Levels | None = None,
    *,
    mask_sets: Sequence[Levels] | None = None,
    channel_weights: Levels | None = None,
    normalizer: Normalizer | Sequence[Normalizer] = "mask",
    scale: Scalar | Sequence[Scalar] = 1.0,
    reduction: Reduction = "sum",
    backend: Backend = "auto",
) -> Tensor:
    """Squared error between features, weighted by a mask: the imitation term.

    ``scale * sum_l 1/Z_l sum_bhw S sum_d c_d (x_d - y_d)^2``. Gradients flow to ``student_feats`` only.

    Args:
        student_feats: features x after adaptation, ``[B, D, H, W]`` or ``[B, D, L]``, or a list over levels.
        teacher_feats: features y of the same shapes; the dtype may differ.
        masks: one mask S per level, ``[B, H, W]``, ``[B, 1, H, W]``, ``[B, H*W]`` or ``[B, 1, H*W]``, of a
            floating-point, integer or bool dtype: an FRS mask, a ground-truth mask, an attention map.
        mask_sets: several such ``masks`` in place of one. Their losses are added, and the features are still
            read only once.
        channel_weights: channel weights c ``[B, D]``, or a sequence of levels of them (FGD).
        normalizer: Z_l. "mask": sum of S (official FRS); "mask_channels": D * sum of S + 1e-9 (Ultralytics);
            "batch": B (FGD); "numel": B*D*H*W; "mask_all_levels": sum of S over all levels, so that a level
            whose mask finds little counts little; or a number or a 0-d tensor. A level whose Z_l is 0
            contributes 0. With ``mask_sets``, a sequence has one per set.
        scale: a number or a 0-d tensor (read on the device, no synchronisation). With ``mask_sets``, a
            sequence has one per set.
        reduction: over images, after the division by Z_l. "sum": the formula above; "mean": divided by B;
            "none": one value per image, for which the batch size must be the same in all levels.
        backend: "auto", "native", "triton" or "eager".

    Returns:
        a 0-d tensor, or ``[B]`` for ``reduction="none"``; float32 (float64 for float64 inputs).

    Raises:
        ValueError, TypeError: for arguments that do not fit, naming argument, level and both shapes; for
            masks and channel weights that require a gradient, or a teacher that does while the student does
            not.
        RuntimeError: if the requested backend cannot run; the message says why.

    Source: eq. 2 of the FRS paper.
    """
    inputs = LossInputs(
        student_feats=checks.as_levels("student_feats", student_feats),
        teacher_feats=checks.as_levels("teacher_feats", teacher_feats),
    )
    if channel_weights is not None:
        inputs.channel_weights = checks.as_tensors("channel_weights", channel_weights)
        if isinstance(channel_weights, Tensor):
            inputs.channel_weights = inputs.channel_weights * len(inputs.student_feats)
    return _masked_loss(inputs, masks, mask_sets, normalizer, scale, reduction, backend).feature


def weighted_bce(
    student_logits: Levels,
    teacher_logits: Levels,
    masks: Levels | None = None,
    *,
    mask_sets: Sequence[Levels] | None = None,
    beta: float = 0.0,
    normalizer: Normalizer | Sequence[Normalizer] = "mask",
    scale: Scalar | Sequence[Scalar] = 1.0,
    reduction: Reduction = "sum",
    backend: Backend = "auto",
) -> Tensor:
    """Binary cross-entropy between class probabilities, weighted by a mask: the head term.

    ``scale * sum_l 1/Z_l sum_bhw S sum_k |p_k - q_k|^beta [softplus(s_k) - q_k s_k]`` with
    ``p = sigmoid(s)``, ``q = sigmoid(T)``; exact for saturated logits. Gradients flow to ``student_logits``
    only, through the factor ``|p - q|^beta`` too.

    Args:
        student_logits: s, ``[B, K, H, W]`` or ``[B, K, L]``, or a sequence of levels.
        teacher_logits: T, of the same shapes; the dtype may differ.
        masks, mask_sets: as in :func:`weighted_mse`.
        beta: 0 for plain cross-entropy, > 0 for the quality focal form (CrossKD, BCKD).
        normalizer: as in :func:`weighted_mse`, with K in place of D.
        scale, reduction: as in :func:`weighted_mse`.
        backend: "auto", "native", "triton" or "eager".

    Returns, Raises: as :func:`weighted_mse`.

    Source: eq. 4 of the FRS paper; ``|p - q|^beta`` is the modulating factor of the quality focal loss.
    """
    inputs = LossInputs(
        student_logits=checks.as_levels("student_logits", student_logits),
        teacher_logits=checks.as_levels("teacher_logits", teacher_logits),
        beta=beta,
    )
    return _masked_loss(inputs, masks, mask_sets, normalizer, scale, reduction, backend).head


def frs_loss(
    student_feats: Levels | None,
    teacher_feats: Levels | None,
    *,
    student_logits: Levels | None = None,
    teacher_logits: Levels | None = None,
    masks: Levels | None = None,
    feat_weight: Scalar = 1.0,
    head_weight: Scalar = 1.0,
    normalizer: Normalizer = "mask",
    backend: Backend = "auto",
) -> FRSLossOutput:
    """The FRS distillation loss of a whole feature pyramid, masks and both terms fused.

    Args:
        student_feats: x after adaptation, one ``[B, D, H, W]`` per level; None leaves the imitation term out.
        teacher_feats: y, of the same shapes.
        student_logits: s, of the shapes of T; None leaves the head term out.
        teacher_logits: T, one ``[B, K, H, W]`` per level: the source of the masks and the targets of the head
            term. May be None if ``masks`` are given and there is no head term.
        masks: one mask ``[B, H, W]`` per level in place of the FRS masks, or the FRS masks themselves if
            :func:`frs_mask` has computed them already, which saves one read of T.
        feat_weight, head_weight: a number or a 0-d tensor (a warm-up factor on the device needs no
            synchronisation).
        normalizer: as in :func:`weighted_mse`, but one for all.
        backend: "auto", "native", "triton" or "eager".

    Returns:
        :class:`FRSLossOutput`: ``feature``, ``head`` and ``total = feature + head``, multiplied by their
        weights, and the shares of the levels. Each term may be differentiated once, alone or in the total.

    Raises:
        ValueError, TypeError: for arguments that do not fit, naming argument, level and both shapes; for
            masks that require a gradient, or a teacher that does while the student does not.
        RuntimeError: if the requested backend cannot run; the message says why.

    Source: eq. 1, 2 and 4 of the FRS paper.
    """
    inputs = _frs_inputs(
        student_feats, teacher_feats, student_logits, teacher_logits, masks,
        feat_scale=feat_weight, head_scale=head_weight, normalizer=normalizer,
    )  # fmt: skip
    return _run(inputs, backend)


def explain_backend(
    student_feats: Levels | None = None,
    teacher_feats: Levels | None = None,
    *,
    student_logits: Levels | None = None,
    teacher_logits: Levels | None = None,
    masks: Levels | None = None,
    backend: Backend = "auto",
) -> dispatch.BackendReport:
    """Which backend :func:`frs_loss` would run for these tensors, what it would copy, and why no other.

    Takes the tensors of :func:`frs_loss`. Print the result, or read ``chosen``, ``reasons`` and ``copies``.
    """
    inputs = _frs_inputs(student_feats, teacher_feats, student_logits, teacher_logits, masks)
    return dispatch.explain(backend, inputs)


def _frs_inputs(
    student_feats: Levels | None,
    teacher_feats: Levels | None,
    student_logits: Levels | None,
    teacher_logits: Levels | None,
    masks: Levels | None,
    *,
    feat_scale: Scalar = 1.0,
    head_scale: Scalar = 1.0,
    normalizer: Normalizer = "mask",
) -> LossInputs:
    if teacher_logits is None and masks is None:
        raise ValueError("teacher_logits and masks are both None: one of them has to weight the locations")
    if student_feats is None and student_logits is None:
        raise ValueError("student_feats and student_logits are both None: there is nothing to distil")
    return checks.check(
        LossInputs(
            student_feats=checks.as_levels("student_feats", student_feats),
            teacher_feats=checks.as_levels("teacher_feats", teacher_feats),
            student_logits=checks.as_levels("student_logits", student_logits),
            teacher_logits=checks.as_levels("teacher_logits", teacher_logits),
            masks=checks.as_masks("masks", masks),
            feat_scale=feat_scale,
            head_scale=head_scale,
            normalizer=normalizer,
        )
    )


def _masked_loss(
    inputs: LossInputs,
    masks: Levels | None,
    mask_sets: Sequence[Levels] | None,
    normalizer: Normalizer | Sequence[Normalizer],
    scale: Scalar | Sequence[Scalar],
    reduction: str,
    backend: Backend,
) -> FRSLossOutput:
    """The loss for one mask per level, or for several, merged into the one that gives the sum of their
    losses."""
    checks.check_reduction(reduction)
    if (masks is None) == (mask_sets is None):
        raise ValueError("give either masks, or several of them as mask_sets")
    inputs.per_image = reduction == "none"
    if mask_sets is None:
        inputs.feat_scale = inputs.head_scale = checks.one_scalar("scale", scale, _ONE_PER_SET)
        inputs.masks = checks.as_masks("masks", masks)
        inputs.normalizer = checks.one_scalar("normalizer", normalizer, _ONE_PER_SET)
    else:
        inputs.masks = _merged(inputs, mask_sets, normalizer, scale)
        inputs.normalizer = 1.0
    checks.check(inputs)
    if reduction == "mean":
        batch = max(inputs.tensors[0].shape[0], 1)
        inputs.feat_scale, inputs.head_scale = inputs.feat_scale / batch, inputs.head_scale / batch
    return _run(inputs, backend)


def _merged(
    inputs: LossInputs,
    mask_sets: Sequence[Levels] | Tensor,
    normalizer: Normalizer | Sequence[Normalizer],
    scale: Scalar | Sequence[Scalar],
) -> list[Tensor]:
    """sum_m scale_m / Z_m,l * S_m,l per level: masks are small in comparison with features and logits."""
    if isinstance(mask_sets, Tensor) or len(mask_sets) == 0:
        raise ValueError("mask_sets must be a sequence of what masks may be, with at least one")
    sets = [checks.as_masks(f"mask_sets[{i}]", levels) for i, levels in enumerate(mask_sets)]
    normalizers = _one_per_set("normalizer", normalizer, len(sets))
    scales = _one_per_set("scale", scale, len(sets))
    for i, levels in enumerate(sets):
        try:
            checks.one_scalar("scale", scales[i])
            checks.check(replace(inputs, masks=levels, normalizer=normalizers[i]))
        except ValueError as error:
            raise ValueError(f"mask_sets[{i}]: {error}") from None
    shapes = [student.shape for student in inputs.student_feats or inputs.student_logits]
    weighted: list[list[Tensor]] = []  # per set, per level
    for levels, own, factor in zip(sets, normalizers, scales, strict=True):
        values = [mask.detach().to(inputs.dtype).flatten(1) for mask in levels]
        divisors = reference.normalizer_values(own, values, shapes)
        weighted.append([_divided(s, z, factor) for s, z in zip(values, divisors, strict=True)])
    merged: list[Tensor] = []
    for level in range(len(shapes)):
        of_sets = [levels[level] for levels in weighted]
        merged.append(sum(of_sets[1:], of_sets[0]))
    return merged


def _divided(mask: Tensor, z: Tensor | float, scale: Scalar) -> Tensor:
    """scale / Z * S, or 0 where Z is 0."""
    z = z if isinstance(z, Tensor) else z * mask.new_ones(())
    return torch.where(z == 0, 0.0, scale / z * mask)


def _one_per_set(name: str, value: T | Sequence[T], count: int) -> list[T]:
    if not isinstance(value, (list, tuple)):
        return [checks.one_scalar(name, value)] * count
    values = list(value)
    if len(values) != count:
        raise ValueError(f"{count} mask_sets are given, but {name} has {len(values)} values")
    return values


def _run(inputs: LossInputs, backend: Backend) -> FRSLossOutput:
    chosen = dispatch.select(backend, inputs)
    if chosen.NAME == "eager":
        return _run_reference(inputs)
    if transforms_are_active(inputs):
        return transforms.loss(chosen.namespace().name, inputs)
    return fused_loss(chosen.namespace().name, inputs.canonical())


def _run_reference(inputs: LossInputs) -> FRSLossOutput:
    return reference.frs_loss(
        inputs.student_feats or None,
        inputs.teacher_feats or None,
        student_logits=inputs.student_logits or None,
        teacher_logits=inputs.teacher_logits or None,
        masks=inputs.masks or None,
        channel_weights=inputs.channel_weights or None,
        beta=inputs.beta,
        feat_weight=inputs.feat_scale,
        head_weight=inputs.head_scale,
        normalizer=inputs.normalizer,
        reduction="none" if inputs.per_image else "sum",
    )
