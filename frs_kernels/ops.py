"""The public functions. :mod:`frs_kernels.reference` defines what they compute, the backends how."""

from collections.abc import Sequence

import torch
from torch import Tensor

from frs_kernels import checks, dispatch, reference
from frs_kernels.autograd import fused_loss
from frs_kernels.inputs import LossInputs
from frs_kernels.levels import Levels
from frs_kernels.reference import FRSLossOutput

Scalar = float | Tensor
Normalizer = str | float | Tensor


def frs_mask(teacher_logits: Levels, *, backend: str = "auto") -> Tensor | list[Tensor]:
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
        else:
            masks = chosen.namespace().mask(inputs.canonical().teacher_logits)
    return masks[0] if isinstance(teacher_logits, Tensor) else masks


def weighted_mse(
    student: Levels,
    teacher: Levels,
    mask: Levels | Sequence[Levels],
    *,
    channel_weight: Levels | None = None,
    normalizer: Normalizer | Sequence[Normalizer] = "mask",
    scale: Scalar | Sequence[Scalar] = 1.0,
    backend: str = "auto",
) -> Tensor:
    """Squared error between features, weighted by a mask: the imitation term.

    ``scale * sum_l 1/Z_l sum_bhw S sum_d c_d (x_d - y_d)^2``. Gradients flow to ``student`` only.

    Args:
        student: features x after adaptation, ``[B, D, H, W]`` or ``[B, D, L]``, or a sequence of levels.
        teacher: features y of the same shapes; the dtype may differ.
        mask: one mask S per level, ``[B, H, W]``, ``[B, 1, H, W]``, ``[B, H*W]`` or ``[B, 1, H*W]``: an FRS
            mask, a ground-truth mask, an attention map. For several masks at once, a list whose entries are
            what one mask would be: their losses are added, and the features are still read only once.
        channel_weight: channel weights c ``[B, D]``, or a sequence of levels of them (FGD).
        normalizer: Z_l. "mask": sum of S (official FRS); "mask_channels": D * sum of S + 1e-9 (Ultralytics);
            "batch": B (FGD); "numel": B*D*H*W; or a number or a 0-d tensor. A level whose Z_l is 0
            contributes 0. A sequence: one per mask.
        scale: a number or a 0-d tensor (read on the device, no synchronisation); a sequence: one per mask.
        backend: "auto", "native", "triton" or "eager".

    Returns:
        a 0-d tensor, float32 (float64 for float64 inputs).

    Raises:
        ValueError, TypeError: for arguments that do not fit, naming argument, level and both shapes.
        RuntimeError: if the requested backend cannot run; the message says why.

    Source: eq. 2 of the FRS paper.
    """
    inputs = LossInputs(
        student_feats=checks.as_levels("student", student),
        teacher_feats=checks.as_levels("teacher", teacher),
    )
    if channel_weight is not None:
        inputs.channel_weights = checks.as_tensors("channel_weight", channel_weight)
        if isinstance(channel_weight, Tensor):
            inputs.channel_weights *= len(inputs.student_feats)
    several = _are_several_masks(student, mask)
    return _masked_loss(inputs, mask, several, normalizer, scale, backend).feature


def weighted_bce(
    student_logits: Levels,
    teacher_logits: Levels,
    mask: Levels | Sequence[Levels],
    *,
    beta: float = 0.0,
    normalizer: Normalizer | Sequence[Normalizer] = "mask",
    scale: Scalar | Sequence[Scalar] = 1.0,
    backend: str = "auto",
) -> Tensor:
    """Binary cross-entropy between class probabilities, weighted by a mask: the head term.

    ``scale * sum_l 1/Z_l sum_bhw S sum_k |p_k - q_k|^beta [softplus(s_k) - q_k s_k]`` with
    ``p = sigmoid(s)``, ``q = sigmoid(T)``; exact for saturated logits. Gradients flow to ``student_logits``
    only, through the factor ``|p - q|^beta`` too.

    Args:
        student_logits: s, ``[B, K, H, W]`` or ``[B, K, L]``, or a sequence of levels.
        teacher_logits: T, of the same shapes; the dtype may differ.
        mask: as in :func:`weighted_mse`.
        beta: 0 for plain cross-entropy, > 0 for the quality focal form (CrossKD, BCKD).
        normalizer: as in :func:`weighted_mse`, with K in place of D.
        scale: as in :func:`weighted_mse`.
        backend: "auto", "native", "triton" or "eager".

    Returns, Raises: as :func:`weighted_mse`.

    Source: eq. 4 of the FRS paper; ``|p - q|^beta`` is the modulating factor of the quality focal loss.
    """
    inputs = LossInputs(
        student_logits=checks.as_levels("student_logits", student_logits),
        teacher_logits=checks.as_levels("teacher_logits", teacher_logits),
        beta=beta,
    )
    several = _are_several_masks(student_logits, mask)
    return _masked_loss(inputs, mask, several, normalizer, scale, backend).head


def frs_loss(
    student_feats: Levels | None,
    teacher_feats: Levels | None,
    teacher_logits: Levels | None,
    student_logits: Levels | None = None,
    *,
    masks: Levels | None = None,
    feat_weight: Scalar = 1.0,
    head_weight: Scalar = 1.0,
    normalizer: Normalizer = "mask",
    backend: str = "auto",
) -> FRSLossOutput:
    """The FRS distillation loss of a whole feature pyramid, masks and both terms fused.

    Args:
        student_feats: x after adaptation, one ``[B, D, H, W]`` per level; None leaves the imitation term out.
        teacher_feats: y, of the same shapes.
        teacher_logits: T, one ``[B, K, H, W]`` per level: the source of the masks and the targets of the head
            term. May be None if ``masks`` are given and there is no head term.
        student_logits: s, of the shapes of T; None leaves the head term out.
        masks: one mask ``[B, H, W]`` per level in place of the FRS masks, or the FRS masks themselves if
            :func:`frs_mask` has computed them already, which saves one read of T.
        feat_weight, head_weight: a number or a 0-d tensor (a warm-up factor on the device needs no
            synchronisation).
        normalizer: as in :func:`weighted_mse`, but one for all.
        backend: "auto", "native", "triton" or "eager".

    Returns:
        ``FRSLossOutput(feature, head, total)``: 0-d tensors, float32 (float64 for float64 inputs). The terms
        are multiplied by their weights already; ``total = feature + head``. A term that is left out is 0.

    Raises:
        ValueError, TypeError: for arguments that do not fit, naming argument, level and both shapes.
        RuntimeError: if the requested backend cannot run; the message says why.

    Source: eq. 1, 2 and 4 of the FRS paper.
    """
    inputs = _frs_inputs(
        student_feats, teacher_feats, teacher_logits, student_logits, masks=masks,
        feat_scale=feat_weight, head_scale=head_weight, normalizer=normalizer,
    )  # fmt: skip
    return _run(inputs, backend)


def explain_backend(
    student_feats: Levels | None,
    teacher_feats: Levels | None = None,
    teacher_logits: Levels | None = None,
    student_logits: Levels | None = None,
    *,
    masks: Levels | None = None,
    backend: str = "auto",
) -> dispatch.BackendReport:
    """Which backend :func:`frs_loss` would run for these tensors, what it would copy, and why no other.

    Takes the arguments of :func:`frs_loss`. Print the result, or read ``chosen``, ``reasons`` and ``copies``.
    """
    inputs = _frs_inputs(student_feats, teacher_feats, teacher_logits, student_logits, masks=masks)
    return dispatch.explain(backend, inputs)


def _frs_inputs(
    student_feats, teacher_feats, teacher_logits, student_logits, *, masks, **scalars
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
            masks=checks.as_tensors("masks", masks),
            **scalars,
        )
    )


def _are_several_masks(student: Levels, mask: Levels | Sequence[Levels]) -> bool:
    """Whether ``mask`` is a list of masks: of tensors for one level, of lists for several levels."""
    if isinstance(mask, Tensor):
        return False
    return isinstance(student, Tensor) or not all(isinstance(m, Tensor) for m in mask)


def _masked_loss(inputs: LossInputs, mask, several: bool, normalizer, scale, backend: str) -> FRSLossOutput:
    """The loss for one mask, or for several, merged into the one mask that gives the sum of their losses."""
    if not several:
        inputs.masks = checks.as_tensors("mask", mask)
        inputs.normalizer, inputs.feat_scale, inputs.head_scale = normalizer, scale, scale
        return _run(checks.check(inputs), backend)
    masks = [checks.as_tensors("mask", levels) for levels in mask]
    for levels in masks:
        inputs.masks = levels
        checks.check(inputs)
    inputs.masks = _merged(inputs, masks, _one_per_mask(normalizer, masks), _one_per_mask(scale, masks))
    inputs.normalizer = 1.0
    return _run(checks.check(inputs), backend)


def _one_per_mask(value, masks: list) -> list:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * len(masks)
    if len(values) != len(masks):
        raise ValueError(f"{len(masks)} masks are given, but {len(values)} normalizers or scales")
    return values


def _merged(inputs: LossInputs, masks: list[list[Tensor]], normalizers: list, scales: list) -> list[Tensor]:
    """sum_m scale_m / Z_m,l * S_m,l per level: masks are small in comparison with features and logits."""
    dtype = inputs.dtype
    merged = []
    for level, student in enumerate(inputs.student_feats or inputs.student_logits):
        total = 0.0
        for mask, normalizer, scale in zip(masks, normalizers, scales, strict=True):
            values = mask[level].detach().to(dtype).flatten(1)
            z = reference.normalizer_value(normalizer, values, student.shape)
            z = z if isinstance(z, Tensor) else values.new_full((), z)
            total = total + torch.where(z == 0, 0.0, scale / z * values)
        merged.append(total)
    return merged


def _run(inputs: LossInputs, backend: str) -> FRSLossOutput:
    chosen = dispatch.select(backend, inputs)
    if chosen.NAME == "eager":
        return _run_reference(inputs)
    return fused_loss(chosen.namespace().name, inputs.canonical())


def _run_reference(inputs: LossInputs) -> FRSLossOutput:
    masks = inputs.masks or reference.frs_mask(inputs.teacher_logits)
    feature = head = inputs.tensors[0].new_zeros((), dtype=inputs.dtype)
    if inputs.student_feats:
        feature = reference.weighted_mse(
            inputs.student_feats, inputs.teacher_feats, masks,
            channel_weight=inputs.channel_weights or None,
            normalizer=inputs.normalizer, scale=inputs.feat_scale,
        )  # fmt: skip
    if inputs.student_logits:
        head = reference.weighted_bce(
            inputs.student_logits, inputs.teacher_logits, masks,
            beta=inputs.beta, normalizer=inputs.normalizer, scale=inputs.head_scale,
        )  # fmt: skip
    return FRSLossOutput(feature, head, feature + head)
