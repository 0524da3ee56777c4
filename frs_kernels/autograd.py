"""The one autograd.Function, for the operators of any fused backend.

Gradients are linear in the incoming gradient, so the operator computes those of the total in the forward. The
backward multiplies them by the incoming gradient, in place and without a synchronisation.
"""

import torch
from torch import Tensor

from .contract import NORMALIZERS, Scalar
from .inductor import register_scaled_lowering
from .inputs import KLInputs, LossInputs
from .output import FRSLossOutput
from .torch_private import graph_is_retained, holds_several

ONCE_DIFFERENTIABLE = (
    "the fused FRS losses are once_differentiable: take backend='eager' for a double backward"
)
_FEATURE, _HEAD, _TOTAL = range(3)  # rows of the operator's losses; the first two are those of pending, too


def fused_loss(namespace: str, inputs: LossInputs) -> FRSLossOutput:
    """Runs the loss operator of ``namespace`` on canonical inputs; differentiable in the student tensors.

    The operator runs once. Each term then has an autograd node of its own, so that they can be differentiated
    one after the other.
    """
    grad_enabled = torch.is_grad_enabled()
    feat_grad = grad_enabled and any([t.requires_grad for t in inputs.student_feats])
    head_grad = grad_enabled and any([t.requires_grad for t in inputs.student_logits])
    losses, level_losses, pending, *grads = run_operator(namespace, inputs, feat_grad, head_grad)
    results = list(losses.unbind())
    factors = pending.unbind() if feat_grad or head_grad else ()
    both = feat_grad and head_grad
    for term, students in ((_FEATURE, inputs.student_feats), (_HEAD, inputs.student_logits)):
        if grads[term]:
            total = None if both else results[_TOTAL]
            results[term], results[_TOTAL] = _Term.apply(
                namespace, results[term], total, factors[term], len(students), *grads[term], *students
            )
        else:
            results[term] = _owned(results[term])
    if both:
        # No node of both: a backward through it would release the gradients of the term that is not meant.
        results[_TOTAL] = results[_FEATURE] + results[_HEAD]
    elif not (feat_grad or head_grad):
        results[_TOTAL] = _owned(results[_TOTAL])
    return FRSLossOutput(*results, *level_losses.unbind())


def run_operator(namespace: str, inputs: LossInputs, feat_grad: bool, head_grad: bool) -> tuple:
    """The results of the loss operator, under the name that says which terms the call has."""
    if inputs.student_feats:
        name = "loss" if inputs.student_logits else "imitation"
    else:
        name = "head"
    operator = getattr(getattr(torch.ops, namespace), name).default
    return operator(*loss_arguments(inputs, feat_grad, head_grad))


def loss_arguments(inputs: LossInputs, feat_grad: bool, head_grad: bool) -> list:
    """The arguments of the loss operator, in the order of contract.LOSS_ARGUMENTS."""
    return [
        inputs.student_feats,
        inputs.teacher_feats,
        inputs.student_logits,
        inputs.teacher_logits,
        inputs.masks,
        inputs.channel_weights,
        *_normalizer(inputs),
        *_number_and_tensor(inputs.feat_scale, inputs),
        *_number_and_tensor(inputs.head_scale, inputs),
        float(inputs.beta),
        feat_grad,
        head_grad,
        inputs.per_image,
    ]


def fused_kl(namespace: str, inputs: KLInputs) -> Tensor:
    """Runs the operator kl of ``namespace`` on canonical inputs; differentiable in the student tensors."""
    wants_grad = torch.is_grad_enabled() and any([t.requires_grad for t in inputs.student])
    loss, pending, grads = getattr(torch.ops, namespace).kl.default(*kl_arguments(inputs, wants_grad))
    if not grads:
        return loss
    return _Term.apply(namespace, loss, None, pending, len(grads), *grads, *inputs.student)[0]


def kl_arguments(inputs: KLInputs, grad: bool) -> list:
    """The arguments of the operator kl, in the order of contract.KL_ARGUMENTS."""
    return [
        inputs.student,
        inputs.teacher,
        inputs.weights,
        inputs.over == "locations",
        inputs.groups,
        float(inputs.temperature),
        *_normalizer(inputs),
        *_number_and_tensor(inputs.scale, inputs),
        grad,
        inputs.per_image,
    ]


def _normalizer(inputs: LossInputs | KLInputs) -> tuple[int, float, Tensor | None]:
    """The code of a normalizer, and the number and the tensor of one that the caller gives."""
    if isinstance(inputs.normalizer, str):
        return NORMALIZERS.index(inputs.normalizer), *_number_and_tensor(1.0, inputs)
    return NORMALIZERS.index("value"), *_number_and_tensor(inputs.normalizer, inputs)


def _number_and_tensor(value: Scalar, inputs: LossInputs | KLInputs) -> tuple[float, Tensor | None]:
    """A scalar as the operators take it: a number times an optional tensor on the device."""
    if isinstance(value, Tensor):
        return 1.0, value.detach().to(device=inputs.device, dtype=inputs.dtype, non_blocking=True)
    if torch.compiler.is_compiling() and not _is_static(value):
        return 1.0, torch.ones((), dtype=inputs.dtype, device=inputs.device) * value
    return float(value), None


def _is_static(value: float) -> bool:
    """Whether a number is a constant of the graph that is traced; it would become one as a Python float."""
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return has_static_value(value)


def _owned(loss: Tensor) -> Tensor:
    """A loss as a tensor that shares its memory, but is no view of others for autograd.

    On one of several views, autograd forbids in-place operations such as `loss += other`.
    """
    # In torch.compile, an output that shares memory with an input loses its gradient.
    return loss.clone() if torch.compiler.is_compiling() else loss.data


class _Term(torch.autograd.Function):
    """The autograd node of one term: its loss, and the total if the other term is a constant."""

    @staticmethod
    def forward(ctx, namespace, loss, total, pending, num_levels, *grads_and_students):
        # The gradients are arguments of their own. In torch 2.10, torch.compile confuses a list of them with
        # the sizes that change from image to image.
        ctx.namespace = namespace
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(pending, *grads_and_students[:num_levels])
        return _owned(loss), None if total is None else _owned(total)

    @staticmethod
    def backward(ctx, *grad_outputs):
        if not torch.is_grad_enabled():
            return _Term.gradients(ctx, *grad_outputs)
        with torch.no_grad():
            grads = _Term.gradients(ctx, *grad_outputs)
        return _not_differentiable(grads)

    @staticmethod
    def gradients(ctx, grad_loss, grad_total):
        """The stored gradients times the incoming one, for the students."""
        pending, *grads = ctx.saved_tensors
        nothing = [None] * len(grads)
        grad_output = _sum(grad_loss, grad_total)
        if grad_output is None:
            return *[None] * 5, *nothing, *nothing
        return *[None] * 5, *nothing, *_scaled(ctx.namespace, grads, grad_output, pending)


def _not_differentiable(grads: tuple) -> tuple:
    """The same gradients, with an error in place of their derivative.

    `once_differentiable` is not enough: where the incoming gradient is a constant, as that of a loss is, it
    returns gradients that look constant too. A penalty on them would have no effect and raise no error.
    """

    def with_error(grad):
        return _Undifferentiable.apply(grad.detach().requires_grad_())

    return tuple(None if grad is None else with_error(grad) for grad in grads)


class _Undifferentiable(torch.autograd.Function):
    """The same tensor, whose derivative is an error."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.data  # shares its memory, but is no view of it for autograd

    @staticmethod
    def backward(ctx, *grad_outputs):
        raise RuntimeError(ONCE_DIFFERENTIABLE)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sum of two incoming gradients, either of which may be absent."""
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _scaled(namespace: str, grads: list[Tensor], grad_output: Tensor, pending: Tensor) -> list[Tensor]:
    """grads[i] * grad_output * pending[i], in place unless a later backward may need the stored gradients."""
    if grad_output.dim() > 0:
        grad_output = grad_output.contiguous()
    operators = getattr(torch.ops, namespace)
    if torch.compiler.is_compiling():
        register_scaled_lowering(namespace)
        return list(operators.scaled.default(grads, grad_output, pending))
    if holds_several(grad_output):
        return [multiplied(grad, grad_output * factor) for grad, factor in zip(grads, pending, strict=True)]
    if graph_is_retained():
        return operators.scaled.default(grads, grad_output, pending)
    operators.scale_.default(grads, grad_output, pending)
    return grads


def multiplied(grad: Tensor, factor: Tensor) -> Tensor:
    """grad * factor, which is [] or [B] in the accumulation dtype, in PyTorch that every transform knows."""
    if factor.dim() == 1:
        factor = factor.reshape(-1, *[1] * (grad.dim() - 1))
    return (grad.to(factor.dtype) * factor).to(grad.dtype)
