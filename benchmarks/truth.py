"""Whether a provider computes the right thing: checked against float64 before anything is timed."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.workloads import Case, Inputs, make_inputs
from frs_kernels import reference

# Largest allowed ||out - truth|| / ||truth||. The eager formulations round every intermediate to the
# inputs' dtype, and the published one takes logarithms of rounded probabilities.
TOLERANCE = {
    "fused": {"fp32": 1e-5, "bf16": 5e-3, "fp16": 1e-3},
    "eager": {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2},
}


@dataclass
class Outcome:
    """What one call gave: maps, or a loss and the gradients of ``Inputs.leaves`` (empty without)."""

    values: list[Tensor]
    grads: list[Tensor]


@functools.lru_cache(maxsize=1)
def truth(case: Case, device: str) -> Outcome:
    """The case in float64 by the reference, level by level and image by image to keep the memory small."""
    inputs = make_inputs(case, device)
    if case.op == "mask":
        return Outcome([reference.frs_mask(t.double()) for t in inputs.teacher_logits], [])
    total = torch.zeros((), dtype=torch.float64, device=device)
    feat_grads, logit_grads = [], []
    for level in range(len(case.shapes.sizes)):
        weight = _weight(case, inputs, level)
        normalizer = weight.sum()
        parts = [_one_image(case, inputs, level, image, weight, normalizer) for image in range(case.batch)]
        for loss, feat_grad, logit_grad in parts:
            total += loss
            feat_grads.append(feat_grad)
            logit_grads.append(logit_grad)
    if case.mode == "forward":
        return Outcome([total], [])
    grads = [_stacked(grads, case.batch) for grads in (feat_grads, logit_grads) if grads[0] is not None]
    return Outcome([total], [level for levels in grads for level in levels])


def _weight(case: Case, inputs: Inputs, level: int) -> Tensor:
    if case.op == "loss":
        return torch.cat([reference.frs_mask(t.double()) for t in inputs.teacher_logits[level].split(1)])
    return inputs.masks[level].double()


def _one_image(case: Case, inputs: Inputs, level: int, image: int, weight: Tensor, normalizer: Tensor):
    """(loss, gradient of x, gradient of s) of one image at one level, the gradients in float32."""
    x, y, s, t = (
        levels[level][image : image + 1].detach().double() if levels else None for levels in inputs.lists[:4]
    )
    if case.op == "imitation":
        t = None
    students = [z.requires_grad_() for z in (x, s) if z is not None]
    loss = reference.frs_loss(
        None if x is None else [x], None if y is None else [y], None if t is None else [t],
        None if s is None else [s], masks=[weight[image : image + 1]], normalizer=normalizer,
    ).total  # fmt: skip
    grads = iter(torch.autograd.grad(loss, students))
    feat_grad, logit_grad = (None if z is None else next(grads).float() for z in (x, s))
    return loss.detach(), feat_grad, logit_grad


def _stacked(grads: list[Tensor], batch: int) -> list[Tensor]:
    return [torch.cat(grads[start : start + batch]) for start in range(0, len(grads), batch)]


def errors(case: Case, outcome: Outcome, expected: Outcome, incoming: float = 1.0) -> dict[str, float]:
    """Relative error of the values and of the gradients, which carry the factor ``incoming``."""
    found = {"values": _error(outcome.values, expected.values)}
    if case.mode != "forward":
        found["grads"] = _error(outcome.grads, expected.grads, incoming)
    return found


def _error(found: list[Tensor], expected: list[Tensor], factor: float = 1.0) -> float:
    assert len(found) == len(expected), f"{len(found)} tensors, expected {len(expected)}"
    difference = norm = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape, f"{list(ours.shape)}, expected {list(theirs.shape)}"
        difference += (ours.float() / factor - theirs).square().sum(dtype=torch.float64).item()
        norm += theirs.square().sum(dtype=torch.float64).item()
    return (difference / norm) ** 0.5
