"""How strongly the distillation pulls at the student's features, compared with the detection losses.

Values of losses do not tell this: a loss may be large and flat. Their gradients in the features of the
pyramid, before the adapter, are what the student's backbone learns from.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from frs_train.training.learner import Learner
from frs_train.training.terms import TERMS

DETECTION_LEVEL = "detection_level"


@contextlib.contextmanager
def watched(learner: Learner, wanted: bool) -> Iterator[list[Tensor]]:
    """Yields a list that the learner's next forward fills with the student's features [B, D, H, W] of the
    levels that it shares with the teacher. It stays empty unless `wanted`, or without a teacher."""
    feats: list[Tensor] = []

    def keep(student, inputs, outputs) -> None:
        feats.extend(outputs.feats[level] for level, _ in learner.levels)

    hook = learner.student.register_forward_hook(keep) if wanted and learner.levels else None
    try:
        yield feats
    finally:
        if hook:
            hook.remove()


def gradient_ratios(losses: dict[str, Tensor], feats: list[Tensor]) -> dict[str, float]:
    """The norm of each distillation term's gradient in the features / the norm of the detection losses'.

    Names such as `frs_feature` (see `TERMS`) are ratios over all levels of `feats`. `feature_level_0` and so
    on are the parts of single levels, with the detection losses of all levels in the divisor: their squares
    add up to the square of the term's ratio. `detection_level_0` and so on are those of the detection losses,
    whose squares add up to 1. A ratio that is not finite is left out, as after an overflow in float16 or
    without a detection gradient.

    Args:
        losses: 0-d losses by name, all multiplied by the same factor; their graph is kept for the training.
        feats: [B, D, H, W] of each level.
    """
    detection = torch.stack([loss for name, loss in losses.items() if name not in TERMS]).sum()
    own = _norms(detection, feats)
    whole = own.norm()
    ratios = _by_level(DETECTION_LEVEL, own / whole)
    for term, part in TERMS.items():
        if term in losses:
            levels = _norms(losses[term], feats) / whole
            ratios |= {term: float(levels.norm()), **_by_level(part, levels)}
    return {name: value for name, value in ratios.items() if math.isfinite(value)}


def _by_level(part: str, values: Tensor) -> dict[str, float]:
    return {f"{part}_{level}": value for level, value in enumerate(values.tolist())}


def _norms(loss: Tensor, feats: list[Tensor]) -> Tensor:
    """The norm of the gradient of a loss in each tensor: [levels], float32."""
    grads = torch.autograd.grad(loss, feats, retain_graph=True, allow_unused=True)
    norms = [
        loss.new_zeros((), dtype=torch.float32)
        if grad is None
        else torch.linalg.vector_norm(grad, dtype=torch.float32)
        for grad in grads
    ]
    return torch.stack(norms)
