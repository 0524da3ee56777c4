"""The public functions: what they compute stands in :mod:`frs_kernels.reference`, and how in a backend."""

from collections.abc import Sequence

import torch
from torch import Tensor

from frs_kernels import checks, dispatch, reference
from frs_kernels.autograd import fused_loss
from frs_kernels.contract import accumulation_dtype
from frs_kernels.levels import Levels, Terms
from frs_kernels.reference import FRSLossOutput

Scalar = float | Tensor
Normalizer = str | float | Tensor


def frs_mask(teacher_logits: Levels, *, backend: str = "auto") -> Tensor | list[Tensor]:
    """The feature-richness score of every location: the largest class probability of the teacher.

    ``S = max_k sigmoid(T_k)``, a constant: no gradient flows to the teacher. Call it on one level as soon
    as the teacher's head has produced that level, and give the maps to :func:`frs_loss` as ``masks``: the
    logits are then still in the cache.

    Args:
        teacher_logits: ``[B, K, H, W]`` (or ``[B, K, L]``), one tensor or a sequence of levels; K counts
            classes, or anchors x classes. float32, float16, bfloat16 or float64.
        backend: "auto", "native", "triton" or "eager".

    Returns:
        ``[B, H, W]`` (``[B, L]``) in float32, float64 for float64 logits; a list for a sequence.

    Raises:
        ValueError, TypeError: for arguments that do not fit, naming the level and the shape.
        RuntimeError: if the backend asked for cannot run; the message says why.

    Source: eq. 1 of the FRS paper.
    """
    terms = checks.check(Terms(teacher_logits=checks.as_levels("teacher_logits", teacher_logits)))
    chosen = dispatch.select(backend, terms)
    with torch.no_grad():
        if chosen.NAME == "eager":
            masks = reference.frs_mask(terms.teacher_logits)
        else:
            masks = chosen.namespace().mask(terms.canonical().teacher_logits)
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
    """Squared error between features, weighted by a map: the imitation loss.

    ``scale * sum_l 1/Z_l sum_bhw S sum_d c_d (x_d - y_d)^2``. Gradients flow to ``student`` only.

    Args:
        student: features x after adaptation, ``[B, D, H, W]`` or ``[B, D, L]``, or a sequence of levels.
        teacher: features y of the same shapes; the dtype may differ.
        mask: S, one per level, ``[B, H, W]``, ``[B, 1, H, W]``, ``[B, H*W]`` or ``[B, 1, H*W]``: an FRS
            mask, a ground-truth mask, an attention map. Several masks at once: a list of what one mask would
            be; their losses are added, and the features are still read once.
        channel_weight: ``[B, D]``, or a sequence of levels: a factor c for every channel (FGD).
        normalizer: Z_l. "mask": sum of S (official FRS); "mask_channels": D * sum of S + 1e-9
            (Ultralytics); "batch": B (FGD); "numel": B*D*H*W; or a number or a 0-d tensor. A level whose
            Z_l is 0 contributes 0. A sequence: one for each mask.
        scale: a number or a 0-d tensor (read on the device, no sync). A sequence: one for each mask.
        backend: "auto", "native", "triton" or "eager".

    Returns:
        a 0-d tensor, float32 (float64 for float64 inputs).

    Raises:
        ValueError, TypeError: for arguments that do not fit, naming argument, level and both shapes.
        RuntimeError: if the backend asked for cannot run; the message says why.

    Source: eq. 2 of the FRS paper.
    """
    terms = Terms(
        student_feats=checks.as_levels("student", student),
        teacher_feats=checks.as_levels("teacher", teacher),
    )
    if channel_weight is not None:
        terms.channel_weights = checks.as_maps("channel_weight", channel_weight)
        if isinstance(channel_weight, Tensor):
            terms.channel_weights *= len(terms.student_feats)
    return _with_masks(terms, student, mask, normalizer, scale, backend).feature


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
    """Binary cross-entropy between student and teacher class probabilities, weighted by a map.

    ``scale * sum_l 1/Z_l sum_bhw S sum_k |p_k - q_k|^beta [softplus(s_k) - q_k s_k]`` with
    ``p = sigmoid(s)``, ``q = sigmoid(T)``; exact for saturated logits. Gradients flow to
    ``student_logits`` only, through the modulating factor too.

    Args:
        student_logits: s, ``[B, K, H, W]`` or ``[B, K, L]``, or a sequence of levels.
        teacher_logits: T, of the same shapes; the dtype may differ.
        mask: as in :func:`weighted_mse`.
        beta: 0 for plain cross-entropy, > 0 for the quality focal form (CrossKD, BCKD).
        normalizer: as in :func:`weighted_mse`, with K in place of D.
        scale: as in :func:`weighted_mse`.
        backend: "auto", "native", "triton" or "eager".

    Returns, Raises: as :func:`weighted_mse`.

    Source: eq. 4 of the FRS paper; the modulating factor is that of the quality focal loss.
    """
    terms = Terms(
        student_logits=checks.as_levels("student_logits", student_logits),
        teacher_logits=checks.as_levels("teacher_logits", teacher_logits),
        beta=beta,
    )
    return _with_masks(terms, student_logits, mask, normalizer, scale, backend).head


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
    """The FRS distillation loss of a whole feature pyramid, mask and both terms fused.

    Args:
        student_feats: x after adaptation, ``[B, D, H, W]`` a level; None leaves the imitation term out.
        teacher_feats: y, of the same shapes.
        teacher_logits: T, ``[B, K, H, W]`` a level: they make the mask, and the targets of the head term.
            May be None if ``masks`` are given and there is no head term.
        student_logits: s, of the shapes of T; None leaves the head term out.
        masks: maps ``[B, H, W]`` a level to use instead of the teacher's richness, or that richness if
            :func:`frs_mask` has computed it already: then T is read once less.
        feat_weight, head_weight: a number or a 0-d tensor (a warm-up factor on the device costs no sync).
        normalizer: as in :func:`weighted_mse`.
        backend: "auto", "native", "triton" or "eager".

    Returns:
        ``FRSLossOutput(feature, head, total)``: 0-d tensors, float32 (float64 for float64 inputs). The terms
        carry their weights already; ``total = feature + head``. A term left out is 0.

    Raises:
        ValueError, TypeError: for arguments that do not fit, naming argument, level and both shapes.
        RuntimeError: if the backend asked for cannot run; the message says why.

    Source: eq. 1, 2 and 4 of the FRS paper.
    """
    terms = _frs_terms(
        student_feats,
        teacher_feats,
        teacher_logits,
        student_logits,
        masks,
        feat_weight,
        head_weight,
        normalizer,
    )
    return _run(terms, backend)


def explain_backend(
    student_feats: Levels | None,
    teacher_feats: Levels | None = None,
    teacher_logits: Levels | None = None,
    student_logits: Levels | None = None,
    *,
    masks: Levels | None = None,
    backend: str = "auto",
) -> dispatch.BackendReport:
    """What :func:`frs_loss` would run for these tensors, what it would copy, and why not the others.

    Takes the arguments of :func:`frs_loss`. Print the result, or read ``chosen``, ``reasons`` and
    ``copies``.
    """
    terms = _frs_terms(student_feats, teacher_feats, teacher_logits, student_logits, masks, 1.0, 1.0, "mask")
    return dispatch.explain(backend, terms)


def _frs_terms(
    student_feats, teacher_feats, teacher_logits, student_logits, masks, feat_weight, head_weight, normalizer
) -> Terms:
    if teacher_logits is None and masks is None:
        raise ValueError("teacher_logits and masks are both None: one of them has to weight the locations")
    if student_feats is None and student_logits is None:
        raise ValueError("student_feats and student_logits are both None: there is nothing to distil")
    return checks.check(
        Terms(
            student_feats=checks.as_levels("student_feats", student_feats),
            teacher_feats=checks.as_levels("teacher_feats", teacher_feats),
            student_logits=checks.as_levels("student_logits", student_logits),
            teacher_logits=checks.as_levels("teacher_logits", teacher_logits),
            weights=checks.as_maps("masks", masks),
            normalizer=normalizer,
            feat_scale=feat_weight,
            head_scale=head_weight,
        )
    )


def _with_masks(terms: Terms, student: Levels, mask, normalizer, scale, backend: str) -> FRSLossOutput:
    """One mask as it is; several ones merged into the one map that gives the sum of their losses."""
    single = isinstance(mask, Tensor) or (
        not isinstance(student, Tensor) and all(isinstance(m, Tensor) for m in mask)
    )
    if single:
        terms.weights = checks.as_maps("mask", mask)
        terms.normalizer, terms.feat_scale, terms.head_scale = normalizer, scale, scale
        return _run(checks.check(terms), backend)
    masks = [checks.as_maps("mask", one) for one in mask]
    for one in masks:
        terms.weights = one
        checks.check(terms)
    terms.weights = _merged(terms, masks, _each(normalizer, masks), _each(scale, masks))
    terms.normalizer = 1.0
    return _run(checks.check(terms), backend)


def _each(value, masks: list) -> list:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * len(masks)
    if len(values) != len(masks):
        raise ValueError(f"{len(masks)} masks are given, but {len(values)} normalizers or scales")
    return values


def _merged(terms: Terms, masks: list[list[Tensor]], normalizers: list, scales: list) -> list[Tensor]:
    """sum_m scale_m / Z_m,l * W_m,l a level: maps are small beside features and logits."""
    dtype = accumulation_dtype(*terms.tensors)
    merged = []
    for level, student in enumerate(terms.student_feats or terms.student_logits):
        total = 0.0
        for mask, normalizer, scale in zip(masks, normalizers, scales, strict=True):
            weight = mask[level].detach().to(dtype).flatten(1)
            share = reference.divisor(normalizer, weight, student.shape)
            share = share if isinstance(share, Tensor) else weight.new_full((), share)
            total = total + torch.where(share == 0, 0.0, scale / share * weight)
        merged.append(total)
    return merged


def _run(terms: Terms, backend: str) -> FRSLossOutput:
    chosen = dispatch.select(backend, terms)
    if chosen.NAME == "eager":
        return _run_reference(terms)
    return fused_loss(chosen.namespace().name, terms.canonical())


def _run_reference(terms: Terms) -> FRSLossOutput:
    maps = terms.weights or reference.frs_mask(terms.teacher_logits)
    feature = head = terms.tensors[0].new_zeros((), dtype=terms.dtype)
    if terms.student_feats:
        feature = reference.weighted_mse(
            terms.student_feats, terms.teacher_feats, maps,
            channel_weight=terms.channel_weights or None,
            normalizer=terms.normalizer, scale=terms.feat_scale,
        )  # fmt: skip
    if terms.student_logits:
        head = reference.weighted_bce(
            terms.student_logits, terms.teacher_logits, maps,
            beta=terms.beta, normalizer=terms.normalizer, scale=terms.head_scale,
        )  # fmt: skip
    return FRSLossOutput(feature, head, feature + head)
