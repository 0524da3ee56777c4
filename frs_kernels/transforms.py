"""The operators of a fused backend inside the transforms of torch.func: grad, vjp and vmap.

There a tensor is a wrapper, and an operator would see the values in it alone. torch unwraps the tensor
arguments of an autograd.Function, one transform after the other. So here a whole call is one Function: for
grad and vjp it returns the gradients as results, which the backward multiplies, and for vmap it runs once
per entry.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .autograd import ONCE_DIFFERENTIABLE, multiplied, run_operator
from .inputs import KLInputs, LossInputs
from .output import FRSLossOutput
from .torch_private import active_transforms, layers

ONLY_EAGER = (
    "only eager supports second and forward-mode derivatives, and torch.func under torch.compile or with "
    "other transforms than grad, vjp and vmap"
)


def unsupported(inputs: LossInputs | KLInputs) -> str | None:
    """Why fused operators cannot run inside the active transforms, or None."""
    if isinstance(inputs, KLInputs):
        return "only eager supports weighted_kl inside transforms of torch.func"
    if torch.compiler.is_compiling() or not active_transforms() <= {"grad", "vmap"}:
        return ONLY_EAGER
    if torch.is_grad_enabled() and any(derivatives(tensor) > 1 for tensor in inputs.students):
        return ONLY_EAGER
    return None


def derivatives(tensor: Tensor) -> int:
    """How many transforms (and plain autograd, which counts as one) record derivatives in ``tensor``."""
    return sum(layer.requires_grad for layer in layers(tensor))


def mask(namespace: str, inputs: LossInputs) -> list[Tensor]:
    """The mask operator inside transforms."""
    return list(_Mask.apply(namespace, *inputs.teacher_logits))


def loss(namespace: str, inputs: LossInputs) -> FRSLossOutput:
    """The loss operator inside transforms; differentiable in the student tensors, once."""
    wanted = [
        torch.is_grad_enabled() and any(derivatives(tensor) > 0 for tensor in students)
        for students in (inputs.student_feats, inputs.student_logits)
    ]
    call, tensors = _Call.of(namespace, inputs, *wanted)
    losses, level_losses, *_ = _Loss.apply(call, *tensors)
    return FRSLossOutput(*(loss.clone() for loss in losses.unbind()), *level_losses.unbind())


@dataclass(frozen=True)
class _Call:
    """A call of the loss operator but for its tensors, which autograd.Function takes one by one."""

    namespace: str
    inputs: LossInputs  # with the position of a tensor in place of the tensor
    feat_grad: bool
    head_grad: bool

    @classmethod
    def of(cls, namespace: str, inputs: LossInputs, feat_grad: bool, head_grad: bool):
        """The call, and its tensors."""
        tensors = []

        def position(value):
            if isinstance(value, list):
                return [position(tensor) for tensor in value]
            if not isinstance(value, Tensor):
                return value
            tensors.append(value)
            return _Position(len(tensors) - 1)

        positions = {field.name: position(getattr(inputs, field.name)) for field in fields(inputs)}
        return cls(namespace, replace(inputs, **positions), feat_grad, head_grad), tensors

    def with_tensors(self, tensors: tuple) -> LossInputs:
        """The arguments, with the tensors in their places."""

        def value(position):
            if isinstance(position, list):
                return [value(entry) for entry in position]
            return tensors[position.index] if isinstance(position, _Position) else position

        return replace(
            self.inputs, **{f.name: value(getattr(self.inputs, f.name)) for f in fields(self.inputs)}
        )

    def students(self) -> list[tuple[int, int]]:
        """(term, position among the tensors) of the student tensors whose gradients are wanted."""
        feats = self.inputs.student_feats if self.feat_grad else []
        logits = self.inputs.student_logits if self.head_grad else []
        positions: list[list[Any]] = [feats, logits]  # each a _Position
        return [(term, p.index) for term, of_term in enumerate(positions) for p in of_term]


@dataclass(frozen=True)
class _Position:
    """Stands for the tensor at ``index`` among the tensors of a call."""

    index: int


class _Mask(torch.autograd.Function):
    @staticmethod
    def forward(namespace, *teacher_logits):
        levels = LossInputs(teacher_logits=list(teacher_logits)).canonical().teacher_logits
        return tuple(getattr(torch.ops, namespace).mask(levels))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx, *grad_outputs):
        return None, *[None] * len(grad_outputs)

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _one_by_one(_Mask, info, in_dims, arguments)


class _Loss(torch.autograd.Function):
    """losses, level_losses, pending and the gradients, of which the losses are differentiable."""

    @staticmethod
    def forward(call, *tensors):
        inputs = call.with_tensors(tensors).canonical()
        *results, feat_grads, logit_grads = run_operator(
            call.namespace, inputs, call.feat_grad, call.head_grad
        )
        return *results, *feat_grads, *logit_grads

    @staticmethod
    def setup_context(ctx, inputs, output):
        call, *tensors = inputs
        _, _, pending, *grads = output
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.call, ctx.num_tensors = call, len(tensors)
        ctx.save_for_backward(pending, *grads, *(tensors[index] for _, index in call.students()))

    @staticmethod
    def backward(ctx, *grad_outputs):
        grad_losses = grad_outputs[0]
        result = [None] * ctx.num_tensors
        if grad_losses is None:
            return None, *result
        pending, *saved = ctx.saved_tensors
        students = ctx.call.students()
        grads, tensors = saved[: len(students)], saved[len(students) :]
        terms = [term for term, _ in students]
        for i, (term, index) in enumerate(students):
            factor = (grad_losses[term] + grad_losses[2]) * pending[term, terms[:i].count(term)]
            result[index] = multiplied(grads[i], factor)
            if torch.is_grad_enabled():
                result[index] = _OnceDifferentiable.apply(result[index], tensors[i])
        return None, *result

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _one_by_one(_Loss, info, in_dims, arguments)


class _OnceDifferentiable(torch.autograd.Function):
    """The gradient itself, with an error in place of its derivative in the student tensor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad, student):
        return grad.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grad_outputs):
        if ctx.needs_input_grad[1]:
            raise RuntimeError(ONCE_DIFFERENTIABLE)
        return grad_outputs[0], None


def _one_by_one(function, info, in_dims, arguments) -> tuple[tuple, tuple]:
    """The results of ``function`` for every entry of the dimension of vmap, stacked, and their dimensions."""
    results = []
    for entry in range(info.batch_size):
        selected = (
            value if dim is None else value.select(dim, entry)
            for value, dim in zip(arguments, in_dims, strict=True)
        )
        results.append(function.apply(*selected))
    stacked = tuple(torch.stack(entries) for entries in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)
