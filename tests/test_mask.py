"""frs_mask: the largest class probability of every location."""

import pytest
import torch
from cases import DTYPES, LAYOUTS, LONG_SIZES, SIZES, tensors
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_as_accurate

import frs_kernels as frs
from frs_kernels import reference

SHAPES = [
    pytest.param([(1, SIZES), (7, SIZES), (48, SIZES)], id="short"),
    pytest.param([(37, LONG_SIZES)], id="long", marks=pytest.mark.slow_interpreted),
]


def check(logits, backend):
    masks = frs.frs_mask(logits, backend=backend)
    exact = reference.frs_mask([t.double() for t in logits])
    eager = reference.frs_mask(logits)
    for level, triple in enumerate(zip(masks, eager, exact, strict=True)):
        assert_as_accurate(*triple, what=f"mask of level {level}")
    return masks


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shapes", SHAPES)
def test_is_the_sigmoid_of_the_largest_logit(target, shapes, dtype, layout):
    for channels, sizes in shapes:
        logits = tensors(channels, sizes=sizes, dtype=dtype, layout=layout, device=target.device, spread=4)
        masks = check(logits, target.backend)
        assert all(m.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) for m in masks)


def test_one_tensor_gives_one_mask(target):
    (logits,) = tensors(5, sizes=[(4, 6)], device=target.device)
    mask = frs.frs_mask(logits, backend=target.backend)
    assert mask.shape == (2, 4, 6)
    assert torch.equal(mask, frs.frs_mask([logits], backend=target.backend)[0])


def test_flattened_locations_give_a_flat_mask(target):
    logits = tensors(5, layout="flat", device=target.device)
    masks = frs.frs_mask(logits, backend=target.backend)
    assert [m.shape for m in masks] == [t[:, 0].shape for t in logits]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_propagates_nan_and_infinity(target, dtype, layout):
    for channel in (0, 3, 20):
        (logits,) = tensors(21, sizes=[(6, 11)], dtype=dtype, layout=layout, device=target.device)
        logits[0, channel, 2, 3] = float("nan")
        logits[0, channel, 0, 0] = float("inf")
        logits[1, :, 5, 10] = float("-inf")
        (mask,) = check([logits], target.backend)
        assert mask[0, 2, 3].isnan() and mask.isnan().sum() == 1
        assert mask[0, 0, 0] == 1 and mask[1, 5, 10] == 0


@pytest.mark.parametrize("value", [1e4, -1e4, 88.0, -88.0, -104.0, 0.0])
def test_saturates_like_the_sigmoid(target, value):
    check([torch.full((1, 3, 2, 5), value, device=target.device)], target.backend)


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 0, 3, 3), (2, 4, 0, 3), (2, 4, 0)])
def test_empty_tensors_are_legal(target, shape):
    logits = torch.zeros(shape, device=target.device)
    mask = frs.frs_mask(logits, backend=target.backend)
    assert mask.shape == (shape[0], *shape[2:])
    assert (mask == 0).all()


def test_wants_no_gradient(target):
    (logits,) = tensors(5, sizes=[(4, 6)], device=target.device)
    assert not frs.frs_mask(logits.requires_grad_(), backend=target.backend).requires_grad


@given(
    batch=st.integers(1, 3), channels=st.integers(1, 70), height=st.integers(1, 9), width=st.integers(1, 40),
    layout=st.sampled_from(LAYOUTS), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape(target, batch, channels, height, width, layout, dtype, seed):
    logits = tensors(
        channels, sizes=[(height, width), (2, 3)], batch=batch, dtype=dtype, layout=layout,
        device=target.device, seed=seed, spread=5,
    )  # fmt: skip
    check(logits, target.backend)
