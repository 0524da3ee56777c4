"""Compares a provider's results with the float64 reference, before anything is timed."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.workloads import KL_OPS, Case, Inputs, make_inputs
from frs_kernels import reference

# Largest allowed ||out - expected|| / ||expected||. The eager formulations round every intermediate to the
# inputs' dtype, and the published one takes logarithms of rounded probabilities.
TOLERANCE = {
    "fused": {"fp32": 1e-5, "bf16": 5e-3, "fp16": 1e-3},
    "eager": {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2},
}


@dataclass
class Outcome:
    """What one call returns.

    Attributes:
        values: the masks of an operation "mask", else the loss alone.
        grads: gradients of ``Inputs.leaves``; empty for a forward.
    """

    values: list[Tensor]
    grads: list[Tensor]


@functools.lru_cache(maxsize=1)
def expected_outcome(case: Case, device: str) -> Outcome:
    """The case by the reference in float64, one level of one image at a time to save memory."""
    inputs = make_inputs(case, device)
    if case.op == "mask":
        return Outcome([reference.frs_mask(t.double()) for t in inputs.teacher_logits], [])
    total = torch.zeros((), dtype=torch.float64, device=device)
    feat_grads, logit_grads = [], []
    for level in range(len(case.shapes.sizes)):
        weights = _weights(case, inputs, level)
        normalizer = weights.sum()
        for image in range(case.batch):
            loss, feat_grad, logit_grad = _one_image(case, inputs, level, image, weights, normalizer)
            total += loss
            feat_grads.append(feat_grad)
            logit_grads.append(logit_grad)
    if case.mode == "forward":
        return Outcome([total], [])
    grads = [_batches(grads, case.batch) for grads in (feat_grads, logit_grads) if grads[0] is not None]
    return Outcome([total], [level for levels in grads for level in levels])


def _weights(case: Case, inputs: Inputs, level: int) -> Tensor:
    """The mask of a level; ones for locations, or for channels, where weighted_kl has no weights."""
    if case.op == "loss":
        return torch.cat([reference.frs_mask(t.double()) for t in inputs.teacher_logits[level].split(1)])
    if inputs.masks:
        return inputs.masks[level].double()
    batch, channels, *size = inputs.leaves[level].shape
    shape = (channels,) if case.kl_options["over"] == "locations" else size
    return torch.ones((batch, *shape), dtype=torch.float64, device=inputs.leaves[level].device)


def _one_image(case: Case, inputs: Inputs, level: int, image: int, weights: Tensor, normalizer: Tensor):
    """(loss, gradient of x, gradient of s) of one image at one level, the gradients in float32."""
    x, y, s, t = (
        levels[level][image : image + 1].detach().double() if levels else None for levels in inputs.lists[:4]
    )
    if case.op == "imitation":
        t = None
    students = [z.requires_grad_() for z in (x, s) if z is not None]
    weights = weights[image : image + 1]
    if case.op in KL_OPS:
        teacher = t if y is None else y
        loss = reference.weighted_kl(students, [teacher], [weights], normalizer=normalizer, **case.kl_options)
    else:
        loss = reference.frs_loss(
            None if x is None else [x], None if y is None else [y],
            student_logits=None if s is None else [s], teacher_logits=None if t is None else [t],
            masks=[weights], normalizer=normalizer,
        ).total  # fmt: skip
    grads = iter(torch.autograd.grad(loss, students))
    feat_grad, logit_grad = (None if z is None else next(grads).float() for z in (x, s))
    return loss.detach(), feat_grad, logit_grad


def _batches(images: list[Tensor], batch: int) -> list[Tensor]:
    """The tensors of single images, concatenated to one batch per level."""
    return [torch.cat(images[start : start + batch]) for start in range(0, len(images), batch)]


def relative_errors(
    case: Case, outcome: Outcome, expected: Outcome, incoming: float = 1.0
) -> dict[str, float]:
    """Relative error of the values and of the gradients, which contain the incoming gradient as a factor."""
    errors = {"values": _relative_error(outcome.values, expected.values)}
    if case.mode != "forward":
        errors["grads"] = _relative_error(outcome.grads, expected.grads, incoming)
    return errors


def _relative_error(tensors: list[Tensor], expected: list[Tensor], factor: float = 1.0) -> float:
    assert len(tensors) == len(expected), f"{len(tensors)} tensors, expected {len(expected)}"
    difference = norm = 0.0
    for ours, theirs in zip(tensors, expected, strict=True):
        assert ours.shape == theirs.shape, f"{list(ours.shape)}, expected {list(theirs.shape)}"
        difference += (ours.float() / factor - theirs).square().sum(dtype=torch.float64).item()
        norm += theirs.square().sum(dtype=torch.float64).item()
    return (difference / norm) ** 0.5
