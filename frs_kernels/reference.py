"""The maths of feature-richness distillation in plain PyTorch. START HERE: this is the oracle.

All tests compare the other backends with these functions, evaluated in float64. They take the arguments of
the public functions of the same names (:mod:`frs_kernels.ops` documents them), do not check them, and leave
the gradients to autograd. Levels may be one tensor or a sequence of them.

Source: Du et al., "Distilling Object Detectors with Feature Richness", NeurIPS 2021 (arXiv 2111.00674).
"""

import math
from collections.abc import Iterator, Sequence
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

from .contract import NORMALIZER_EPSILON, Normalizer, Over, Reduction, Scalar, accumulation_dtype
from .levels import Levels, as_list
from .output import FRSLossOutput


@overload
def frs_mask(teacher_logits: Tensor) -> Tensor: ...
@overload
def frs_mask(teacher_logits: Sequence[Tensor]) -> list[Tensor]: ...
def frs_mask(teacher_logits: Levels) -> Tensor | list[Tensor]:
    """S = max_k sigmoid(T_k) = sigmoid(max_k T_k), each location's largest class probability, a constant."""
    if not isinstance(teacher_logits, Tensor):
        return [frs_mask(logits) for logits in teacher_logits]
    logits = _constant(teacher_logits)
    if logits.shape[1] == 0:
        return logits.new_zeros((logits.shape[0], *logits.shape[2:]))
    return logits.amax(dim=1).sigmoid()


def weighted_mse(
    student: Levels,
    teacher: Levels,
    masks: Levels,
    *,
    channel_weights: Levels | None = None,
    normalizer: Normalizer = "mask",
    scale: Scalar = 1.0,
    reduction: Reduction = "sum",
) -> Tensor:
    """sum_l 1/Z_l sum_bhw S sum_d c_d (x_d - y_d)^2; its gradient is 2 S c_d (x_d - y_d) / Z_l."""
    return _reduced(imitation_term(student, teacher, masks, channel_weights, normalizer, scale), reduction)


def weighted_bce(
    student_logits: Levels,
    teacher_logits: Levels,
    masks: Levels,
    *,
    beta: float = 0.0,
    normalizer: Normalizer = "mask",
    scale: Scalar = 1.0,
    reduction: Reduction = "sum",
) -> Tensor:
    """sum_l 1/Z_l sum_bhw S sum_k |p_k - q_k|^beta BCE(s_k, q_k), with p = sigmoid(s), q = sigmoid(T).

    BCE(s, q) = softplus(s) - q s; for beta = 0 the gradient is S (p_k - q_k) / Z_l.
    """
    return _reduced(head_term(student_logits, teacher_logits, masks, beta, normalizer, scale), reduction)


def frs_loss(
    student_feats: Levels | None,
    teacher_feats: Levels | None,
    *,
    student_logits: Levels | None = None,
    teacher_logits: Levels | None = None,
    masks: Levels | None = None,
    channel_weights: Levels | None = None,
    beta: float = 0.0,
    feat_weight: Scalar = 1.0,
    head_weight: Scalar = 1.0,
    normalizer: Normalizer = "mask",
    reduction: Reduction = "sum",
) -> FRSLossOutput:
    """The FRS loss: the imitation term and the head term, both weighted by the FRS mask.

    It also takes what only the single terms have: ``channel_weights``, ``beta`` and ``reduction``.
    """
    if masks is None:
        assert teacher_logits is not None
        masks = frs_mask(teacher_logits)
    feature: list[Tensor] = []
    head: list[Tensor] = []
    if student_feats is not None:
        assert teacher_feats is not None
        feature = imitation_term(
            student_feats, teacher_feats, masks, channel_weights, normalizer, feat_weight
        )
    if student_logits is not None:
        assert teacher_logits is not None
        head = head_term(student_logits, teacher_logits, masks, beta, normalizer, head_weight)
    feature = feature or [torch.zeros_like(level) for level in head]
    head = head or [torch.zeros_like(level) for level in feature]
    feature_levels, head_levels = (
        torch.stack([level.detach().sum() for level in term]) for term in (feature, head)
    )
    feature_loss, head_loss = _reduced(feature, reduction), _reduced(head, reduction)
    return FRSLossOutput(feature_loss, head_loss, feature_loss + head_loss, feature_levels, head_levels)


def imitation_term(
    student: Levels,
    teacher: Levels,
    masks: Levels,
    channel_weights: Levels | None,
    normalizer: Normalizer,
    scale: Scalar,
) -> list[Tensor]:
    """The imitation term of every level and image: one tensor [B] per level."""
    levels: list[Tensor] = []
    for x, y, m, c, z in _prepared(student, teacher, masks, channel_weights, normalizer):
        squared = (x - y).square()
        if c is not None:
            squared = squared * _constant_operand(c).reshape(*x.shape[:2], *[1] * (x.dim() - 2))
        levels.append(_scale_operand(scale) * _per_image(squared.sum(dim=1), m, z))
    return levels


def head_term(
    student_logits: Levels,
    teacher_logits: Levels,
    masks: Levels,
    beta: float,
    normalizer: Normalizer,
    scale: Scalar,
) -> list[Tensor]:
    """The head term of every level and image: one tensor [B] per level."""
    levels: list[Tensor] = []
    for s, t, m, _, z in _prepared(student_logits, teacher_logits, masks, None, normalizer):
        entropy = _cross_entropy(s, t)
        if beta > 0:
            entropy = entropy * _power((s.sigmoid() - t.sigmoid()).abs(), beta)
        levels.append(_scale_operand(scale) * _per_image(entropy.sum(dim=1), m, z))
    return levels


def weighted_kl(
    student: Levels,
    teacher: Levels,
    weights: Levels | None = None,
    *,
    over: Over = "channels",
    groups: int = 1,
    temperature: float = 1.0,
    normalizer: Normalizer = "mask",
    scale: Scalar = 1.0,
    reduction: Reduction = "sum",
) -> Tensor:
    """tau^2 sum_l 1/Z_l sum w KL(p || q) with p = softmax(T / tau), q = softmax(s / tau).

    The gradient is tau w (q - p) / Z_l.
    """
    levels = as_list(student)
    if weights is None:  # one weight per location, or per channel
        weights = [x.new_ones(x.shape[:2] if over == "locations" else (len(x), *x.shape[2:])) for x in levels]
    terms: list[Tensor] = []
    for s, t, w, _, z in _prepared(student, teacher, weights, None, normalizer):
        divergence = temperature**2 * _divergence(s / temperature, t / temperature, over, groups)
        terms.append(_scale_operand(scale) * _per_image(divergence, w, z))
    return _reduced(terms, reduction)


def _divergence(s: Tensor, t: Tensor, over: Over, groups: int) -> Tensor:
    """sum p (log p - log q), 0 where p is 0: [B, L], of all groups together; over locations [B, C]."""
    s, t = s.flatten(2), t.flatten(2)
    if over == "channels":
        s, t = (torch.unflatten(x, 1, (groups, x.shape[1] // groups)) for x in (s, t))
    log_p, log_q = t.log_softmax(dim=2), s.log_softmax(dim=2)
    p = log_p.exp()
    divergence = torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(dim=2)
    return divergence.sum(dim=1) if over == "channels" else divergence


def _reduced(levels: list[Tensor], reduction: Reduction) -> Tensor:
    """One number, or one per image for "none", from the values [B] of the levels."""
    parts = levels if reduction == "none" else [level.sum() for level in levels]
    total = sum(parts[1:], parts[0])
    return total / max(levels[0].shape[0], 1) if reduction == "mean" else total


def normalizer_values(
    normalizer: Normalizer, masks: Sequence[Tensor], shapes: Sequence[Sequence[int]]
) -> list[Tensor | float]:
    """Z_l of every level, from masks in the accumulation dtype and the shapes [B, C, ...] of the students."""
    if not isinstance(normalizer, str):
        return [normalizer] * len(masks)
    if normalizer == "mask":
        return [mask.sum() for mask in masks]
    if normalizer == "mask_all_levels":
        sums = [mask.sum() for mask in masks]
        return [sum(sums[1:], sums[0])] * len(masks)
    levels = list(zip(masks, shapes, strict=True))
    if normalizer == "mask_channels":
        return [shape[1] * mask.sum() + NORMALIZER_EPSILON for mask, shape in levels]
    if normalizer == "batch":
        return [shape[0] for shape in shapes]
    return [math.prod(shape) for shape in shapes]


def _prepared(
    student: Levels, teacher: Levels, masks: Levels, channel_weights: Levels | None, normalizer: Normalizer
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]]:
    """For each level: student and teacher in the accumulation dtype, the mask, channel weights, and Z_l.

    Where Z_l is 0, the student is set to 0: otherwise an infinity in it would make its gradient NaN, which is
    0 times infinity, in a level that contributes nothing.
    """
    students, teachers, masks, weights = _as_lists(student, teacher, masks, channel_weights)
    dtypes = [accumulation_dtype(x, y) for x, y in zip(students, teachers, strict=True)]
    summed = [_constant(mask).to(dtype) for mask, dtype in zip(masks, dtypes, strict=True)]
    divisors = normalizer_values(normalizer, summed, [x.shape for x in students])
    for x, y, m, c, z, dtype in zip(students, teachers, masks, weights, divisors, dtypes, strict=True):
        z = z.to(x.device, dtype) if isinstance(z, Tensor) else z * x.new_ones((), dtype=dtype)
        yield x.to(dtype).masked_fill(z == 0, 0.0), y.detach().to(dtype), m, c, z


def _per_image(values: Tensor, mask: Tensor, z: Tensor) -> Tensor:
    """1/Z_l sum_hw S v for each image [B] of the values v [B, ...] per location, or 0 where Z_l is 0."""
    is_zero = z == 0
    masked = _constant_operand(mask).to(values.dtype).reshape(values.shape) * values
    return (masked.flatten(1).sum(dim=1) / z.masked_fill(is_zero, 1.0)).masked_fill(is_zero, 0.0)


def _cross_entropy(s: Tensor, t: Tensor) -> Tensor:
    """softplus(s) - q s with q = sigmoid(t), as |s| sigmoid(-sign(s) t) + log1p(exp(-|s|)).

    The plain form cancels where s is large and the result is small, and is NaN where s is infinite.
    """
    sign = torch.where(s.detach() < 0, -1.0, 1.0)  # 1 at s = 0 too, where |s| then has the derivative 1
    size = sign * s
    return size * (-sign * t).sigmoid() - F.logsigmoid(size)


def _power(difference: Tensor, beta: float) -> Tensor:
    """difference^beta for difference >= 0, with a derivative of 0 at 0 for every beta."""
    is_zero = difference == 0
    return torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, difference).pow(beta))


def _accumulable(tensor: Tensor) -> Tensor:
    """The tensor in its accumulation dtype: float64 stays, everything else becomes float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _constant(tensor: Tensor) -> Tensor:
    """The tensor in its accumulation dtype, without a gradient."""
    return _accumulable(tensor.detach())


def _constant_operand(tensor: Tensor) -> Tensor:
    """The same as a copy: autograd saves such an operand, and cannot save a tensor of inference mode."""
    return _constant(tensor.clone())


def _scale_operand(scale: Scalar) -> Scalar:
    """The scale, a tensor as a copy, for the same reason."""
    return scale.clone() if isinstance(scale, Tensor) else scale


def _as_lists(
    student: Levels, teacher: Levels, masks: Levels, channel_weights: Levels | None
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Sequence[Tensor | None]]:
    """Each argument as a list over levels. One tensor of channel weights serves every level."""
    students, weights = as_list(student), channel_weights
    if weights is None or isinstance(weights, Tensor):
        weights = [weights] * len(students)
    return students, as_list(teacher), as_list(masks), weights
