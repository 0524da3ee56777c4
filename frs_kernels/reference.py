"""The maths of feature-richness distillation in plain PyTorch. START HERE: this is the oracle.

All tests compare the other backends with these functions, evaluated in float64. They take the arguments of
the public functions of the same names (:mod:`frs_kernels.ops` documents them), do not check them, and leave
the gradients to autograd. Levels may be one tensor or a sequence of them.

Source: Du et al., "Distilling Object Detectors with Feature Richness", NeurIPS 2021 (arXiv 2111.00674).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from frs_kernels.contract import NORMALIZER_EPSILON


class FRSLossOutput(NamedTuple):
    """The two terms of the loss, multiplied by their weights, and their sum; each a 0-d tensor."""

    feature: Tensor
    head: Tensor
    total: Tensor


def frs_mask(teacher_logits):
    """S = max_k sigmoid(T_k) = sigmoid(max_k T_k), each location's largest class probability, a constant."""
    if not isinstance(teacher_logits, Tensor):
        return [frs_mask(logits) for logits in teacher_logits]
    logits = _constant(teacher_logits)
    if logits.shape[1] == 0:
        return logits.new_zeros((logits.shape[0], *logits.shape[2:]))
    return logits.amax(dim=1).sigmoid()


def weighted_mse(student, teacher, mask, *, channel_weight=None, normalizer="mask", scale=1.0):
    """sum_l 1/Z_l sum_bhw S sum_d c_d (x_d - y_d)^2; its gradient is 2 S c_d (x_d - y_d) / Z_l."""
    total = 0.0
    for x, y, m, c in zip(*_as_lists(student, teacher, mask, channel_weight), strict=True):
        x, y, z = _prepared(x, y, m, normalizer)
        squared = (x - y).square()
        if c is not None:
            squared = squared * _constant(c).reshape(*x.shape[:2], *[1] * (x.dim() - 2))
        total = total + _normalized(squared.sum(dim=1), m, z)
    return scale * total


def weighted_bce(student_logits, teacher_logits, mask, *, beta=0.0, normalizer="mask", scale=1.0):
    """sum_l 1/Z_l sum_bhw S sum_k |p_k - q_k|^beta BCE(s_k, q_k), with p = sigmoid(s), q = sigmoid(T).

    BCE(s, q) = softplus(s) - q s; for beta = 0 the gradient is S (p_k - q_k) / Z_l.
    """
    total = 0.0
    for s, t, m, _ in zip(*_as_lists(student_logits, teacher_logits, mask, None), strict=True):
        s, t, z = _prepared(s, t, m, normalizer)
        entropy = _cross_entropy(s, t)
        if beta > 0:
            entropy = entropy * _power((s.sigmoid() - t.sigmoid()).abs(), beta)
        total = total + _normalized(entropy.sum(dim=1), m, z)
    return scale * total


def frs_loss(
    student_feats, teacher_feats, teacher_logits, student_logits=None, *, masks=None,
    feat_weight=1.0, head_weight=1.0, normalizer="mask",
):  # fmt: skip
    """The FRS loss: the imitation term and the head term, both weighted by the FRS mask."""
    masks = frs_mask(teacher_logits) if masks is None else masks
    feature = head = _zero_like(masks)
    if student_feats is not None:
        feature = weighted_mse(student_feats, teacher_feats, masks, normalizer=normalizer, scale=feat_weight)
    if student_logits is not None:
        head = weighted_bce(student_logits, teacher_logits, masks, normalizer=normalizer, scale=head_weight)
    return FRSLossOutput(feature, head, feature + head)


def normalizer_value(normalizer, mask: Tensor, shape) -> Tensor | float:
    """Z_l of a level with this mask, whose student tensor has ``shape`` [B, C, ...]."""
    channels = shape[1]
    if normalizer == "mask":
        return mask.sum()
    if normalizer == "mask_channels":
        return channels * mask.sum() + NORMALIZER_EPSILON
    if normalizer == "batch":
        return shape[0]
    if normalizer == "numel":
        return channels * mask.numel()
    return normalizer


def _prepared(student: Tensor, teacher: Tensor, mask: Tensor, normalizer) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher in the accumulation dtype, and Z_l.

    Where Z_l is 0, the student is set to 0: otherwise an infinity in it would make its gradient NaN, which is
    0 times infinity, in a level that contributes nothing.
    """
    student, teacher = _accumulable(student), _constant(teacher)
    if student.dtype != teacher.dtype:
        student, teacher = student.double(), teacher.double()
    z = normalizer_value(normalizer, _constant(mask).to(student.dtype), student.shape)
    z = z.to(student) if isinstance(z, Tensor) else student.new_full((), z)
    return student.masked_fill(z == 0, 0.0), teacher, z


def _normalized(per_location: Tensor, mask: Tensor, z: Tensor) -> Tensor:
    """1/Z_l sum_bhw S v of the values v per location, or 0 where Z_l is 0."""
    mask = _constant(mask).to(per_location.dtype).reshape(per_location.shape)
    is_zero = z == 0
    return ((mask * per_location).sum() / z.masked_fill(is_zero, 1.0)).masked_fill(is_zero, 0.0)


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


def _zero_like(masks) -> Tensor:
    """A 0-d tensor in the accumulation dtype of the masks, on their device."""
    first = masks if isinstance(masks, Tensor) else masks[0]
    return _accumulable(first).new_zeros(())


def _as_lists(student, teacher, mask, channel_weight):
    """Each argument as a list over levels. One tensor of channel weights serves every level."""
    if isinstance(student, Tensor):
        return [student], [teacher], [mask], [channel_weight]
    if channel_weight is None or isinstance(channel_weight, Tensor):
        channel_weight = [channel_weight] * len(student)
    return student, teacher, mask, channel_weight
