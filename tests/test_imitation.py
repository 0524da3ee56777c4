"""weighted_mse: the imitation term, its gradient 2 S c (x - y) / Z, and the corners of both."""

import pytest
import torch
from cases import (
    DTYPES,
    LAYOUTS,
    LONG_SIZES,
    NORMALIZERS,
    SIZES,
    compare,
    evaluate,
    gradcheck,
    random_masks,
    tensors,
    term,
)
from hypothesis import given
from hypothesis import strategies as st

import frs_kernels as frs

WRT = ("student_feats",)
SHAPES = [
    pytest.param((1, SIZES), id="one channel"),
    pytest.param((12, SIZES), id="short"),
    pytest.param((35, LONG_SIZES), id="long", marks=pytest.mark.slow_interpreted),
]


def arguments(channels=12, **options):
    return term(("student_feats", "teacher_feats"), channels, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradient(target, shape, dtype, layout):
    channels, sizes = shape
    given_arguments = arguments(channels, sizes=sizes, dtype=dtype, layout=layout, device=target.device)
    compare(frs.weighted_mse, target, given_arguments, WRT, upstream=0.7)


@pytest.mark.parametrize("student", DTYPES[:3], ids=str)
@pytest.mark.parametrize("teacher", DTYPES, ids=str)
def test_mixed_dtypes(target, student, teacher):
    mixed = arguments(dtype=student, teacher_dtype=teacher, device=target.device)
    _, grads = compare(frs.weighted_mse, target, mixed, WRT)
    assert all(grad.dtype == student for grad in grads)


def test_mixed_layouts_are_copied(target):
    mixed = arguments(device=target.device)
    mixed["teacher_feats"] = tensors(12, layout="channels_last", device=target.device, seed=2)
    compare(frs.weighted_mse, target, mixed, WRT)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_normalizers(target, normalizer):
    for layout in ("nchw", "channels_last"):
        compare(
            frs.weighted_mse,
            target,
            arguments(layout=layout, device=target.device),
            WRT,
            normalizer=normalizer,
        )


def test_normalizer_and_scale_on_the_device(target):
    normalizer = torch.tensor(3.0, device=target.device)
    scale = torch.tensor(0.25, device=target.device)
    (with_tensors,), grads = compare(
        frs.weighted_mse, target, arguments(device=target.device), WRT, normalizer=normalizer, scale=scale
    )
    (with_numbers,), expected = evaluate(
        frs.weighted_mse,
        arguments(device=target.device),
        WRT,
        normalizer=3.0,
        scale=0.25,
        backend=target.backend,
    )
    torch.testing.assert_close(with_tensors, with_numbers)
    torch.testing.assert_close(grads, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "flat"])
def test_channel_weights(target, dtype, layout):
    with_channels = arguments(dtype=dtype, layout=layout, device=target.device)
    generator = torch.Generator().manual_seed(3)
    with_channels["channel_weights"] = [
        torch.rand(2, 12, generator=generator).to(with_channels["masks"][0]) for _ in SIZES
    ]
    compare(frs.weighted_mse, target, with_channels, WRT)


def test_one_channel_weight_serves_every_level(target):
    shared = arguments(device=target.device)
    channel_weight = torch.rand(2, 12, device=target.device)
    one = frs.weighted_mse(**shared, channel_weights=channel_weight, backend=target.backend)
    each = frs.weighted_mse(**shared, channel_weights=[channel_weight] * len(SIZES), backend=target.backend)
    assert torch.equal(one, each)


def test_every_shape_of_a_mask_means_the_same(target):
    base = arguments(device=target.device)
    expected = frs.weighted_mse(**base, backend=target.backend)
    for shape in (lambda w: w[:, None], lambda w: w.flatten(1)):
        base["masks"] = [shape(w) for w in base["masks"]]
        assert torch.equal(frs.weighted_mse(**base, backend=target.backend), expected)
        base = arguments(device=target.device)


def test_several_masks_add_up(target):
    base = arguments(device=target.device)
    first, second = base["masks"], random_masks(device=target.device, seed=8)
    del base["masks"]
    together, grads = evaluate(
        frs.weighted_mse, base | {"mask_sets": [first, second]}, WRT,
        normalizer=["mask", "numel"], scale=[1.0, -0.5], backend=target.backend,
    )  # fmt: skip
    base["masks"] = first
    one, one_grads = evaluate(frs.weighted_mse, base, WRT, backend=target.backend)
    base["masks"] = second
    two, two_grads = evaluate(
        frs.weighted_mse, base, WRT, normalizer="numel", scale=-0.5, backend=target.backend
    )
    torch.testing.assert_close(together[0], one[0] + two[0])
    torch.testing.assert_close(grads, [a + b for a, b in zip(one_grads, two_grads, strict=True)])


@pytest.mark.parametrize("normalizer, size", [("mask", 0.0), (0.0, 1.0)])
def test_a_mask_whose_normalizer_is_0_adds_nothing_to_others(target, normalizer, size):
    base = arguments(device=target.device)
    (expected,), grads = evaluate(frs.weighted_mse, base, WRT, backend=target.backend)
    base["mask_sets"] = [base.pop("masks"), [size * w for w in random_masks(device=target.device, seed=8)]]
    for backend in (target.backend, "eager"):
        (loss,), actual_grads = evaluate(
            frs.weighted_mse, base, WRT, normalizer=["mask", normalizer], backend=backend
        )
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(actual_grads, grads)


def test_each_of_several_masks_is_divided_by_its_sum_over_all_levels(target):
    base = arguments(device=target.device)
    sets = [base.pop("masks"), random_masks(device=target.device, seed=8)]
    normalizers, scales = ["mask_all_levels", "mask"], [2.0, -0.5]
    compare(frs.weighted_mse, target, base | {"mask_sets": sets}, WRT, normalizer=normalizers, scale=scales)
    together = frs.weighted_mse(
        **base, mask_sets=sets, normalizer=normalizers, scale=scales, backend=target.backend
    )
    parts = [
        frs.weighted_mse(**base, masks=masks, normalizer=normalizer, scale=scale, backend=target.backend)
        for masks, normalizer, scale in zip(sets, normalizers, scales, strict=True)
    ]
    torch.testing.assert_close(together, parts[0] + parts[1])


def test_several_masks_for_one_tensor(target):
    base = {name: levels[0] for name, levels in arguments(device=target.device).items()}
    several = {"mask_sets": [base["masks"], base["masks"]], "backend": target.backend}
    twice = frs.weighted_mse(base["student_feats"], base["teacher_feats"], **several)
    torch.testing.assert_close(twice, 2 * frs.weighted_mse(**base, backend=target.backend))


@pytest.mark.parametrize("normalizer", ["mask", "numel", 0.0])
def test_a_level_whose_mask_is_zero_contributes_nothing(target, normalizer):
    base = arguments(device=target.device)
    base["masks"][1].zero_()
    _, grads = compare(frs.weighted_mse, target, base, WRT, normalizer=normalizer)
    assert (grads[1] == 0).all()
    if normalizer != 0.0:
        assert (grads[0] != 0).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_normalizer_of_0_hides_what_the_tensors_hold(target, value):
    """In eager, too: 0 times infinity must not become the gradient."""
    for name in ("student_feats", "teacher_feats", "channel_weights"):
        base = arguments(device=target.device)
        base["channel_weights"] = [torch.ones(2, 12, device=target.device) for _ in SIZES]
        base["masks"][1].zero_()
        base[name][1].view(-1)[7] = value
        losses, grads = compare(frs.weighted_mse, target, base, WRT)
        assert losses[0].isfinite() and (grads[1] == 0).all() and (grads[0] != 0).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["student_feats", "teacher_feats", "masks"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_propagates_nan_and_infinity(target, layout, name, value):
    base = arguments(layout=layout, device=target.device)
    where = (1, 2, 3) if name == "masks" else (1, 4, 2, 3)
    base[name][0][where] = value
    (loss,), _ = compare(frs.weighted_mse, target, base, WRT)
    assert not loss.isfinite()


def test_a_zero_in_the_mask_does_not_hide_infinity(target):
    base = arguments(device=target.device)
    base["masks"][0][0, 0, 0] = 0
    base["student_feats"][0][0, 3, 0, 0] = float("inf")
    (loss,), _ = compare(frs.weighted_mse, target, base, WRT)
    assert loss.isnan()


@pytest.mark.parametrize("normalizer", ["mask", "mask_all_levels"])
@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 0, 3, 3), (2, 4, 0, 3)])
def test_an_empty_level_changes_nothing_for_the_others(target, shape, normalizer):
    base = arguments(4, sizes=[(4, 5)], device=target.device)
    options = {"normalizer": normalizer, "backend": target.backend}
    expected, (expected_grad,) = evaluate(frs.weighted_mse, base, WRT, **options)
    base["student_feats"].append(torch.zeros(shape, device=target.device))
    base["teacher_feats"].append(torch.zeros(shape, device=target.device))
    base["masks"].append(torch.zeros(shape[0], *shape[2:], device=target.device))
    (loss,), grads = evaluate(frs.weighted_mse, base, WRT, **options)
    assert torch.equal(loss, expected[0])
    assert torch.equal(grads[0], expected_grad)
    assert grads[1].shape == shape


def test_only_empty_levels(target):
    empty = torch.zeros(2, 4, 0, 3, device=target.device)
    mask = torch.zeros(2, 0, 3, device=target.device)
    only_empty = {"student_feats": empty, "teacher_feats": empty, "masks": mask}
    (loss,), (grad,) = evaluate(frs.weighted_mse, only_empty, WRT, backend=target.backend)
    assert loss == 0 and grad.shape == empty.shape


def test_levels_may_differ_in_batch_and_channels(target):
    device = target.device
    base = {
        "student_feats": [torch.randn(2, 5, 3, 4, device=device), torch.randn(1, 9, 6, 2, device=device)],
        "teacher_feats": [torch.randn(2, 5, 3, 4, device=device), torch.randn(1, 9, 6, 2, device=device)],
        "masks": [torch.rand(2, 3, 4, device=device), torch.rand(1, 6, 2, device=device)],
    }
    compare(frs.weighted_mse, target, base, WRT)


@pytest.mark.slow_interpreted
def test_gradcheck(target):
    base = arguments(3, sizes=[(2, 3), (1, 2)], dtype=torch.float64, device=target.device)
    leaves = [x.requires_grad_() for x in base["student_feats"]]

    def loss(*student):
        return frs.weighted_mse(list(student), base["teacher_feats"], base["masks"], backend=target.backend)

    gradcheck(loss, leaves)


@given(
    channels=st.integers(1, 40), height=st.integers(1, 9), width=st.integers(1, 40),
    layout=st.sampled_from(LAYOUTS), dtype=st.sampled_from(DTYPES),
    normalizer=st.sampled_from(NORMALIZERS), upstream=st.sampled_from([1.0, 0.5, 1024.0]),
)  # fmt: skip
def test_any_shape(target, channels, height, width, layout, dtype, normalizer, upstream):
    base = arguments(
        channels, sizes=[(height, width), (2, 3)], dtype=dtype, layout=layout, device=target.device
    )
    compare(frs.weighted_mse, target, base, WRT, upstream=upstream, normalizer=normalizer)
