"""The rows of logits in the table of other losses (published_losses.py)."""

import other_losses as recipes
import pytest
import torch
import torch.nn.functional as F
from published_losses import levels, pairs, row, same
from torch import Tensor

import frs_kernels as frs


@pytest.fixture
def student() -> list[Tensor]:
    return [s.requires_grad_() for s in levels(0)]


@pytest.fixture
def teacher() -> list[Tensor]:
    return levels(1)


@row("CrossKD, BCKD, class part *")
def test_prediction_mimicking(call, student, teacher):
    """-|sigma - y|^beta ((1 - y) log(1 - sigma) + y log sigma), where y is the teacher's probability.

    It is weighted per location, and divided by the number of positives of all levels.
    """
    weights = [(level[:, 0] > -0.8).double() for level in levels(4)]
    theirs = {1.0: 0.0, 2.0: 0.0}
    for beta in theirs:
        for s, t, weight in pairs(student, teacher, weights):
            sigma, y = s.sigmoid(), t.sigmoid()
            entropy = -((1 - y) * (1 - sigma).log() + y * sigma.log())
            by_location = ((sigma - y).abs() ** beta * entropy).sum(dim=1)
            theirs[beta] = theirs[beta] + (by_location * weight).sum() / 11.0
        same(recipes.quality_focal(student, teacher, beta, 11.0, weights), theirs[beta], student)
    ours = sum(
        call(s=s, T=t, label_weights=weight, positives=11.0)
        for s, t, weight in pairs(student, teacher, weights)
    )
    same(ours, theirs[1.0], student)


def test_prediction_mimicking_with_a_weight_for_each_anchor(student, teacher):
    """Anchors [B H W A, K], as dense heads flatten them, compared with the view that the docs name."""
    theirs, ours, anchors = 0.0, 0.0, 3
    for s, t in pairs(student, teacher):
        s_rows, t_rows = (z.permute(0, 2, 3, 1).reshape(-1, 4) for z in (s, t))
        weight = (torch.arange(len(s_rows)) % 7 > 0).double()
        entropy = F.binary_cross_entropy_with_logits(s_rows, t_rows.sigmoid(), reduction="none")
        factor = (s_rows.sigmoid() - t_rows.sigmoid()).abs()
        theirs = theirs + (entropy * factor * weight[:, None]).sum() / 11.0
        s_view, t_view = (z.unflatten(1, (anchors, 4)).flatten(0, 1) for z in (s, t))
        masks = weight.reshape(2, *s.shape[2:], anchors).permute(0, 3, 1, 2).flatten(0, 1)
        ours = ours + frs.weighted_bce(s_view, t_view, masks, beta=1.0, normalizer=11.0)
    same(ours, theirs, student)


def test_without_label_weights_every_location_counts(student, teacher):
    ones = [torch.ones_like(x[:, 0]) for x in student]
    same(
        recipes.quality_focal(student, teacher, normalizer=11.0),
        recipes.quality_focal(student, teacher, normalizer=11.0, label_weights=ones),
        student,
    )
