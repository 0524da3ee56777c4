"""The one autograd.Function, for the operators of any fused backend.

Gradients are linear in the incoming gradient, so the operator computes those of ``losses[2]`` in the forward.
The backward multiplies them by the incoming gradient, in place and without a synchronisation.
"""

import torch
from torch import Tensor

from frs_kernels.contract import LOSS_ARGUMENTS, NORMALIZERS
from frs_kernels.inductor import register_scaled_lowering
from frs_kernels.inputs import LossInputs
from frs_kernels.reference import FRSLossOutput
from frs_kernels.torch_private import graph_is_retained

# Positions among the operator's arguments.
_LISTS = [i for i, kind in enumerate(LOSS_ARGUMENTS.values()) if kind == "Tensor[]"]
_OPTIONAL_TENSORS = [i for i, kind in enumerate(LOSS_ARGUMENTS.values()) if kind == "Tensor?"]
_STUDENT_FEATS, _STUDENT_LOGITS = map(list(LOSS_ARGUMENTS).index, ("student_feats", "student_logits"))


def fused_loss(namespace: str, inputs: LossInputs) -> FRSLossOutput:
    """Runs the loss operator of ``namespace`` on canonical inputs; differentiable in the student tensors."""
    grad_enabled = torch.is_grad_enabled()
    feat_grad = grad_enabled and any(t.requires_grad for t in inputs.student_feats)
    head_grad = grad_enabled and any(t.requires_grad for t in inputs.student_logits)
    arguments = _loss_arguments(inputs, feat_grad, head_grad)
    if feat_grad or head_grad:
        return FRSLossOutput(*_FusedLoss.apply(namespace, *_flattened(arguments)))
    losses, *_ = getattr(torch.ops, namespace).loss(*arguments)
    return FRSLossOutput(*_separate(losses))


def _loss_arguments(inputs: LossInputs, feat_grad: bool, head_grad: bool) -> list:
    """The arguments of the loss operator, in the order of LOSS_ARGUMENTS."""
    dtype, device = inputs.dtype, inputs.device
    if isinstance(inputs.normalizer, str):
        normalizer, given_value = NORMALIZERS.index(inputs.normalizer), 1.0
    else:
        normalizer, given_value = NORMALIZERS.index("value"), inputs.normalizer
    normalizer_value, normalizer_tensor = _number_and_tensor(given_value, dtype, device)
    feat_scale, feat_scale_tensor = _number_and_tensor(inputs.feat_scale, dtype, device)
    head_scale, head_scale_tensor = _number_and_tensor(inputs.head_scale, dtype, device)
    values = {
        "student_feats": inputs.student_feats,
        "teacher_feats": inputs.teacher_feats,
        "student_logits": inputs.student_logits,
        "teacher_logits": inputs.teacher_logits,
        "masks": inputs.masks,
        "channel_weights": inputs.channel_weights,
        "normalizer": normalizer,
        "normalizer_value": normalizer_value,
        "normalizer_tensor": normalizer_tensor,
        "feat_scale": feat_scale,
        "feat_scale_tensor": feat_scale_tensor,
        "head_scale": head_scale,
        "head_scale_tensor": head_scale_tensor,
        "beta": float(inputs.beta),
        "feat_grad": feat_grad,
        "head_grad": head_grad,
    }
    return [values[name] for name in LOSS_ARGUMENTS]


def _number_and_tensor(value, dtype: torch.dtype, device: torch.device) -> tuple[float, Tensor | None]:
    """A scalar as the operators take it: a number times an optional tensor on the device."""
    if isinstance(value, Tensor):
        return 1.0, value.detach().to(device=device, dtype=dtype, non_blocking=True)
    return float(value), None


def _flattened(arguments: list) -> tuple:
    """(constants, *tensors): autograd follows a tensor only if it is an argument of its own, not in a list.

    ``constants`` are the arguments, with the length of a list in its place and None in place of a tensor.
    """
    constants, tensors = list(arguments), []
    for position in _LISTS:
        tensors += arguments[position]
        constants[position] = len(arguments[position])
    for position in _OPTIONAL_TENSORS:
        tensors.append(arguments[position])
        constants[position] = None
    return tuple(constants), *tensors


def _unflattened(constants: tuple, tensors: tuple) -> list:
    """The arguments from which :func:`_flattened` made ``constants`` and ``tensors``."""
    arguments, start = list(constants), 0
    for position in _LISTS:
        end = start + constants[position]
        arguments[position] = list(tensors[start:end])
        start = end
    for position, tensor in zip(_OPTIONAL_TENSORS, tensors[start:], strict=True):
        arguments[position] = tensor
    return arguments


def _flattened_grads(constants: tuple, feat_grads: list[Tensor], logit_grads: list[Tensor]) -> list:
    """The gradients in the order of the tensors of :func:`_flattened`, None for all but the students."""
    of_list = {_STUDENT_FEATS: feat_grads, _STUDENT_LOGITS: logit_grads}
    grads = []
    for position in _LISTS:
        grads += of_list.get(position) or [None] * constants[position]
    return grads + [None] * len(_OPTIONAL_TENSORS)


def _separate(losses: Tensor) -> tuple[Tensor, ...]:
    """The three losses as tensors that share their memory, but are no views for autograd.

    On one of several views, autograd forbids in-place operations such as `loss += other`.
    """
    return tuple(loss.data for loss in losses.unbind())


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, namespace, constants, *tensors):
        arguments = _unflattened(constants, tensors)
        losses, pending, feat_grads, logit_grads = getattr(torch.ops, namespace).loss(*arguments)
        ctx.namespace, ctx.constants = namespace, constants
        ctx.num_feat_grads = len(feat_grads)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(pending, *feat_grads, *logit_grads)
        return _separate(losses)

    @staticmethod
    def backward(ctx, *grad_outputs):
        if not torch.is_grad_enabled():
            return _FusedLoss.gradients(ctx, *grad_outputs)
        with torch.no_grad():
            grads = _FusedLoss.gradients(ctx, *grad_outputs)
        return _not_differentiable(grads)

    @staticmethod
    def gradients(ctx, grad_feature, grad_head, grad_total):
        pending, *grads = ctx.saved_tensors
        feat_grads, logit_grads = grads[: ctx.num_feat_grads], grads[ctx.num_feat_grads :]
        feat_output, logit_output = _sum(grad_feature, grad_total), _sum(grad_head, grad_total)
        if feat_output is logit_output and feat_grads and logit_grads:
            grads = _scaled(ctx.namespace, grads, feat_output, pending)
            feat_grads, logit_grads = grads[: ctx.num_feat_grads], grads[ctx.num_feat_grads :]
        else:
            feat_grads = _scaled(ctx.namespace, feat_grads, feat_output, pending[0])
            logit_grads = _scaled(ctx.namespace, logit_grads, logit_output, pending[1])
        return None, None, *_flattened_grads(ctx.constants, feat_grads, logit_grads)


def _not_differentiable(grads: tuple) -> tuple:
    """The same gradients, with an error in place of their derivative.

    `once_differentiable` is not enough: where the incoming gradient is a constant, as that of a loss is, it
    returns gradients that look constant too. A penalty on them would have no effect and raise no error.
    """
    message = "the fused FRS losses are once_differentiable: take backend='eager' for a double backward"

    def with_error(grad):
        return _Undifferentiable.apply(grad.detach().requires_grad_(), message)

    return tuple(None if grad is None else with_error(grad) for grad in grads)


class _Undifferentiable(torch.autograd.Function):
    """The same tensor, whose derivative is an error."""

    @staticmethod
    def forward(ctx, tensor, message):
        ctx.message = message
        return tensor.data  # shares its memory, but is no view of it for autograd

    @staticmethod
    def backward(ctx, grad_output):
        raise RuntimeError(ctx.message)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sum of two incoming gradients, either of which may be absent."""
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _scaled(namespace: str, grads: list[Tensor], grad_output: Tensor | None, pending: Tensor) -> list[Tensor]:
    """grads[i] * grad_output * pending[i], in place unless a later backward may need the stored gradients."""
    if grad_output is None or not grads:
        return []
    operators = getattr(torch.ops, namespace)
    if torch.compiler.is_compiling():
        register_scaled_lowering(namespace)
        return list(operators.scaled(grads, grad_output, pending))
    if graph_is_retained():
        return operators.scaled(grads, grad_output, pending)
    operators.scale_(grads, grad_output, pending)
    return grads
