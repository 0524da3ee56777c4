"""FRSLossOutput: what a caller may do with the result of a loss."""

import dataclasses

import pytest
import torch
from cases import fields
from loss_cases import arguments
from torch.utils import _pytree as pytree

import frs_kernels as frs


def loss(target, **options) -> frs.FRSLossOutput:
    return frs.frs_loss(**arguments(device=target.device), backend=target.backend, **options)


def test_levels_add_up_to_the_terms(target):
    result = loss(target, feat_weight=0.5, head_weight=2.0)
    torch.testing.assert_close(result.feature_levels.sum(), result.feature)
    torch.testing.assert_close(result.head_levels.sum(), result.head)
    assert result.feature_levels.shape == result.head_levels.shape == (4,)


def test_levels_are_the_losses_of_single_levels(target):
    base = arguments(device=target.device)
    result = frs.frs_loss(**base, backend=target.backend)
    for level in range(4):
        one_level = {name: tensors[level] for name, tensors in base.items()}
        alone = frs.frs_loss(**one_level, backend=target.backend)
        torch.testing.assert_close(result.feature_levels[level], alone.feature)
        torch.testing.assert_close(result.head_levels[level], alone.head)


def test_the_level_that_is_nan_shows(target):
    base = arguments(device=target.device)
    base["student_feats"][2][0, 0, 0, 0] = float("nan")
    for wrt in ((), ("student_feats",)):
        for name in wrt:
            base[name] = [t.requires_grad_() for t in base[name]]
        result = frs.frs_loss(**base, backend=target.backend)
        assert result.feature_levels.isnan().tolist() == [False, False, True, False]
        assert result.head_levels.isfinite().all() and result.total.isnan()


def test_levels_have_no_gradient(target):
    base = {name: [t.requires_grad_() for t in ts] for name, ts in arguments(device=target.device).items()}
    for backend in (target.backend, "eager"):
        result = frs.frs_loss(**base, backend=backend)
        assert result.total.requires_grad and result.feature.requires_grad and result.head.requires_grad
        assert not result.feature_levels.requires_grad and not result.head_levels.requires_grad


def test_it_is_no_sequence(target):
    result = loss(target)
    with pytest.raises(TypeError):
        sum(result)
    with pytest.raises(TypeError):
        result[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.total = result.head


def test_it_is_a_pytree(target):
    result = loss(target)
    leaves, structure = pytree.tree_flatten(result)
    assert len(leaves) == 5
    back = pytree.tree_unflatten(leaves, structure)
    assert isinstance(back, frs.FRSLossOutput) and all(map(torch.equal, fields(back), fields(result)))


def test_scalars_are_named_floats(target):
    result = loss(target)
    scalars = result.scalars()
    assert list(scalars) == ["total", "feature", "head"] + [
        f"{term}_level_{level}" for term in ("feature", "head") for level in range(4)
    ]
    assert all(type(value) is float for value in scalars.values())
    assert scalars["total"] == result.total.item()
    assert scalars["head_level_3"] == result.head_levels[3].item()


def test_it_prints_its_values():
    zeros = [torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 1, 1)]
    ones = [torch.ones_like(level) for level in zeros]
    result = frs.frs_loss(ones, zeros, masks=[torch.ones(1, 3, 4), torch.ones(1, 1, 1)], feat_weight=0.25)
    assert (
        repr(result)
        == str(result)
        == ("FRSLossOutput(total=1, feature=1, head=0, feature_levels=[0.5, 0.5], head_levels=[0, 0])")
    )


def test_it_prints_without_values_too():
    base = {name: [t.to("meta") for t in tensors] for name, tensors in arguments().items()}
    assert "FRSLossOutput(total=tensor(..., device='meta'" in repr(frs.frs_loss(**base))
