"""weighted_bce: the head term, its gradient S (p - q) / Z, the focal form, and saturated logits."""

import math

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
    term,
)
from hypothesis import example, given
from hypothesis import strategies as st

import frs_kernels as frs

WRT = ("student_logits",)
SHAPES = [
    pytest.param((1, SIZES), id="one channel"),
    pytest.param((12, SIZES), id="short"),
    pytest.param((35, LONG_SIZES), id="long", marks=pytest.mark.slow_interpreted),
]


def arguments(channels=12, *, spread=3, **options):
    return term(("student_logits", "teacher_logits"), channels, spread=spread, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradient(target, shape, dtype, layout):
    channels, sizes = shape
    given_arguments = arguments(channels, sizes=sizes, dtype=dtype, layout=layout, device=target.device)
    compare(frs.weighted_bce, target, given_arguments, WRT, upstream=0.7)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_quality_focal_form_is_as_accurate(target, dtype, beta):
    for layout in ("nchw", "channels_last"):
        base = arguments(dtype=dtype, layout=layout, device=target.device)
        base["student_logits"][0][:, 3] = base["teacher_logits"][0][:, 3]
        if dtype == torch.float64 and beta < 1:
            # |p - q|^(beta - 1) amplifies the rounding of p - q, and no wider dtype can serve as the
            # reference.
            actual, grads = evaluate(frs.weighted_bce, base, WRT, beta=beta, backend=target.backend)
            expected, expected_grads = evaluate(frs.weighted_bce, base, WRT, beta=beta, backend="eager")
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-15)
            torch.testing.assert_close(grads, expected_grads, rtol=1e-9, atol=1e-12)
        else:
            compare(frs.weighted_bce, target, base, WRT, beta=beta)


@pytest.mark.parametrize("student", DTYPES[:3], ids=str)
@pytest.mark.parametrize("teacher", DTYPES, ids=str)
def test_mixed_dtypes(target, student, teacher):
    mixed = arguments(dtype=student, teacher_dtype=teacher, device=target.device)
    _, grads = compare(frs.weighted_bce, target, mixed, WRT)
    assert all(grad.dtype == student for grad in grads)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_normalizers(target, normalizer):
    for layout in ("nchw", "channels_last"):
        compare(
            frs.weighted_bce,
            target,
            arguments(layout=layout, device=target.device),
            WRT,
            normalizer=normalizer,
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_saturated_logits(target, dtype, layout):
    values = torch.tensor([0.0, 5.0, 17.0, 30.0, 88.0, 104.0, 1e4, min(torch.finfo(dtype).max / 1e3, 1e30)])
    values = torch.cat([values, -values]).to(target.device, dtype)
    student, teacher = torch.meshgrid(values, values, indexing="ij")
    base = {
        "student_logits": student[None].repeat(1, 1, 3)[..., None],
        "teacher_logits": teacher[None].repeat(1, 1, 3)[..., None],
    }
    if layout == "channels_last":
        base = {name: t.contiguous(memory_format=torch.channels_last) for name, t in base.items()}
    size = student[0].repeat(3)[:, None].shape
    base["masks"] = random_masks(sizes=[size], batch=1, device=target.device)[0]
    (loss,), (grad,) = compare(frs.weighted_bce, target, base, WRT)
    assert loss.isfinite() and grad.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_logits_have_exactly_no_gradient(target, dtype):
    for layout in ("nchw", "channels_last"):
        base = arguments(dtype=dtype, layout=layout, device=target.device, spread=20)
        base["student_logits"] = [
            t.clone(memory_format=torch.preserve_format) for t in base["teacher_logits"]
        ]
        _, grads = evaluate(frs.weighted_bce, base, WRT, backend=target.backend)
        assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["student_logits", "teacher_logits", "masks"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_nan_and_infinity_do_what_the_formula_says(target, layout, name, value):
    for beta in (0.0, 1.5):
        base = arguments(layout=layout, device=target.device)
        where = (1, 2, 3) if name == "masks" else (1, 4, 2, 3)
        base[name][0][where] = value
        (loss,), _ = compare(frs.weighted_bce, target, base, WRT, beta=beta)
        assert loss.isfinite() == (name == "teacher_logits" and value == value)


@pytest.mark.parametrize("student, teacher, loss, slope", [
    (float("-inf"), 0.0, float("inf"), -0.5), (float("inf"), 0.0, float("inf"), 0.5),
    (0.0, float("-inf"), math.log(2), 0.5), (0.0, float("inf"), math.log(2), -0.5),
    (float("-inf"), float("-inf"), float("nan"), 0.0), (float("inf"), float("inf"), float("nan"), 0.0),
    (float("-inf"), float("inf"), float("inf"), -1.0), (float("inf"), float("-inf"), float("inf"), 1.0),
])  # fmt: skip
def test_infinite_logits_in_numbers(target, student, teacher, loss, slope):
    """|s| sigmoid(-sign(s) T) + log1p(exp(-|s|)), and sigmoid(s) - sigmoid(T)."""
    base = {
        "student_logits": torch.full((1, 1, 1, 1), student, device=target.device),
        "teacher_logits": torch.full((1, 1, 1, 1), teacher, device=target.device),
        "masks": torch.ones(1, 1, 1, device=target.device),
    }
    for backend in (target.backend, "eager"):
        (actual,), (grad,) = evaluate(frs.weighted_bce, base, WRT, backend=backend)
        assert actual.item() == pytest.approx(loss, nan_ok=True)
        assert grad.item() == pytest.approx(slope)


@pytest.mark.parametrize("beta", [0.0, 2.0])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_nan_reaches_its_own_gradient_only(target, layout, beta):
    for name in ("student_logits", "teacher_logits"):
        base = arguments(layout=layout, device=target.device)
        base[name][0][1, 4, 2, 3] = float("nan")
        (loss,), grads = compare(frs.weighted_bce, target, base, WRT, beta=beta)
        assert loss.isnan()
        assert grads[0][1, 4, 2, 3].isnan() and sum(grad.isnan().sum() for grad in grads) == 1


def test_a_level_whose_mask_is_zero_contributes_nothing(target):
    base = arguments(device=target.device)
    base["masks"][1].zero_()
    _, grads = compare(frs.weighted_bce, target, base, WRT)
    assert (grads[1] == 0).all() and (grads[0] != 0).any()


def test_several_masks_add_up(target):
    base = arguments(device=target.device)
    first, second = base["masks"], random_masks(device=target.device, seed=8)
    del base["masks"]
    several = base | {"mask_sets": [first, second]}
    (together,), _ = evaluate(frs.weighted_bce, several, WRT, scale=[2.0, 1.0], backend=target.backend)
    base["masks"] = first
    (one,), _ = evaluate(frs.weighted_bce, base, WRT, scale=2.0, backend=target.backend)
    base["masks"] = second
    (two,), _ = evaluate(frs.weighted_bce, base, WRT, backend=target.backend)
    torch.testing.assert_close(together, one + two)


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 0, 3, 3), (2, 4, 0, 3)])
def test_empty_tensors_are_legal(target, shape):
    empty = torch.zeros(shape, device=target.device)
    base = {
        "student_logits": empty,
        "teacher_logits": empty,
        "masks": torch.zeros(shape[0], *shape[2:], device=target.device),
    }
    (loss,), (grad,) = evaluate(frs.weighted_bce, base, WRT, backend=target.backend)
    assert loss == 0 and grad.shape == shape


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("wanted", [True, False], ids=["gradients", "single pass"])
def test_more_channels_than_one_product_holds(target, layout, wanted):
    """Each logit of 0 doubles the product whose logarithm is the loss: 2^1500 is far beyond a float."""
    zeros = [torch.zeros(1, 1500, 2, 3, device=target.device)]
    if layout == "channels_last":
        zeros = [t.contiguous(memory_format=torch.channels_last) for t in zeros]
    student = [t.clone(memory_format=torch.preserve_format).requires_grad_(wanted) for t in zeros]
    loss = frs.frs_loss(
        None, None, student_logits=student, teacher_logits=zeros, backend=target.backend
    ).total
    assert loss.item() == pytest.approx(1500 * math.log(2), rel=1e-6)


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_gradcheck(target, beta):
    base = arguments(3, sizes=[(2, 3), (1, 2)], dtype=torch.float64, device=target.device)
    leaves = [x.requires_grad_() for x in base["student_logits"]]

    def loss(*student):
        return frs.weighted_bce(
            list(student), base["teacher_logits"], base["masks"], beta=beta, backend=target.backend
        )

    gradcheck(loss, leaves)


@given(
    channels=st.integers(1, 40), height=st.integers(1, 9), width=st.integers(1, 40),
    layout=st.sampled_from(LAYOUTS), dtype=st.sampled_from(DTYPES), normalizer=st.sampled_from(NORMALIZERS),
    beta=st.sampled_from([0.0, 1.0, 2.0]), spread=st.sampled_from([0.1, 3.0, 60.0]),
)  # fmt: skip
@example(
    channels=1, height=1, width=1, layout="nchw", dtype=torch.bfloat16,
    normalizer="mask", beta=1.0, spread=0.1,
)  # fmt: skip
def test_any_shape(target, channels, height, width, layout, dtype, normalizer, beta, spread):
    base = arguments(
        channels,
        sizes=[(height, width), (2, 3)],
        dtype=dtype,
        layout=layout,
        device=target.device,
        spread=spread,
    )
    compare(frs.weighted_bce, target, base, WRT, normalizer=normalizer, beta=beta)
