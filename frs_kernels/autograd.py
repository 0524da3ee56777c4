"""The one autograd.Function, over whichever namespace of operators a backend has.

The operators compute the gradients of ``losses[2]`` in the forward, because they are linear in the
incoming gradient: the backward multiplies them by it, in place and without asking the device for it.
"""

import torch
from torch import Tensor

from frs_kernels.contract import NORMALIZERS
from frs_kernels.inductor import learn_scaled
from frs_kernels.levels import Terms
from frs_kernels.reference import FRSLossOutput


def fused_loss(namespace: str, terms: Terms) -> FRSLossOutput:
    """Runs ``namespace``'s loss operator on canonical terms; differentiable in the student tensors."""
    wants_grad = torch.is_grad_enabled()
    feat_grad = wants_grad and any(t.requires_grad for t in terms.student_feats)
    head_grad = wants_grad and any(t.requires_grad for t in terms.student_logits)
    lists = (
        terms.student_feats, terms.teacher_feats, terms.student_logits, terms.teacher_logits,
        terms.weights, terms.channel_weights,
    )  # fmt: skip
    dtype, device = terms.dtype, terms.tensors[0].device
    scalars = [_scalar(v, dtype, device) for v in (
        terms.normalizer if not isinstance(terms.normalizer, str) else 1.0, terms.feat_scale, terms.head_scale
    )]  # fmt: skip
    code = NORMALIZERS.index(terms.normalizer) if isinstance(terms.normalizer, str) else len(NORMALIZERS) - 1
    numbers = (code, *(number for number, _ in scalars), float(terms.beta))
    tensors = [*(tensor for _, tensor in scalars), *(t for levels in lists for t in levels)]
    lengths = tuple(len(levels) for levels in lists)
    if feat_grad or head_grad:
        return FRSLossOutput(*_FusedLoss.apply(namespace, numbers, lengths, feat_grad, head_grad, *tensors))
    losses, *_ = _call(namespace, numbers, lengths, False, False, tensors)
    return FRSLossOutput(*_each(losses))


def _each(losses: Tensor) -> tuple[Tensor, ...]:
    """The three losses as tensors of their own, in the same memory: autograd lets nobody add to a view of
    several, as `loss += other` does."""
    return tuple(loss.data for loss in losses.unbind())


def _scalar(value, dtype, device) -> tuple[float, Tensor | None]:
    """A scale as the operators take it: a number times an optional tensor on the device."""
    if isinstance(value, Tensor):
        return 1.0, value.detach().to(device=device, dtype=dtype, non_blocking=True)
    return float(value), None


def _call(namespace, numbers, lengths, feat_grad, head_grad, tensors):
    code, divisor, feat_scale, head_scale, beta = numbers
    divisor_tensor, feat_tensor, head_tensor, *rest = tensors
    lists, start = [], 0
    for length in lengths:
        lists.append(list(rest[start : start + length]))
        start += length
    return getattr(torch.ops, namespace).loss(
        *lists, code, divisor, divisor_tensor, feat_scale, feat_tensor, head_scale, head_tensor,
        beta, feat_grad, head_grad,
    )  # fmt: skip


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, namespace, numbers, lengths, feat_grad, head_grad, *tensors):
        losses, pending, feat_grads, logit_grads = _call(
            namespace, numbers, lengths, feat_grad, head_grad, tensors
        )
        ctx.namespace, ctx.lengths = namespace, lengths
        ctx.num_feat_grads = len(feat_grads)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(pending, *feat_grads, *logit_grads)
        return _each(losses)

    @staticmethod
    def backward(ctx, *grad_outputs):
        if not torch.is_grad_enabled():
            return _FusedLoss.gradients(ctx, *grad_outputs)
        with torch.no_grad():
            grads = _FusedLoss.gradients(ctx, *grad_outputs)
        return _refuse_second(grads)

    @staticmethod
    def gradients(ctx, grad_feature, grad_head, grad_total):
        pending, *grads = ctx.saved_tensors
        feat_grads, logit_grads = grads[: ctx.num_feat_grads], grads[ctx.num_feat_grads :]
        for_feats, for_logits = _sum(grad_feature, grad_total), _sum(grad_head, grad_total)
        if for_feats is for_logits and feat_grads and logit_grads:
            grads = _scaled(ctx.namespace, grads, for_feats, pending)
            feat_grads, logit_grads = grads[: ctx.num_feat_grads], grads[ctx.num_feat_grads :]
        else:
            feat_grads = _scaled(ctx.namespace, feat_grads, for_feats, pending[0])
            logit_grads = _scaled(ctx.namespace, logit_grads, for_logits, pending[1])
        feats, teacher_feats, logits, *others = ctx.lengths
        feat_grads = feat_grads or [None] * feats
        logit_grads = logit_grads or [None] * logits
        return (
            *[None] * 8, *feat_grads, *[None] * teacher_feats, *logit_grads, *[None] * sum(others)
        )  # fmt: skip


def _refuse_second(grads: tuple) -> tuple:
    """The same gradients, with an error in place of their derivative.

    `once_differentiable` is not enough: where the incoming gradient is a constant, as that of a loss is, it
    returns gradients that look constant too, and a penalty on them would have no effect and raise nothing.
    """
    message = b"the fused FRS losses are once_differentiable: take backend='eager' for a double backward"

    def refused(grad):
        return torch._C._functions.DelayedError(message, 1)(grad.detach().requires_grad_())

    return tuple(None if grad is None else refused(grad) for grad in grads)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _scaled(namespace: str, grads: list[Tensor], factor: Tensor | None, pending: Tensor) -> list[Tensor]:
    """grads[i] * factor * pending[i]: in place, unless a later backward may need the stored ones again."""
    if factor is None or not grads:
        return []
    operators = getattr(torch.ops, namespace)
    if torch.compiler.is_compiling():
        learn_scaled(namespace)
        return list(operators.scaled(grads, factor, pending))
    if torch._C._autograd._get_current_graph_task_keep_graph():
        return operators.scaled(grads, factor, pending)
    operators.scale_(grads, factor, pending)
    return grads
