"""weighted_kl: losses and gradients over channels and over locations, groups, temperatures, odd values."""

import math

import pytest
import torch
from cases import DTYPES, INTERPRETED, LAYOUTS, LONG_SIZES, NORMALIZERS, SIZES, compare, evaluate, tensors
from hypothesis import example, given
from hypothesis import strategies as st
from kl_cases import WRT, arguments

import frs_kernels as frs

pytestmark = pytest.mark.usefixtures("has_kl")
OVER = ("channels", "locations")
SHAPES = [
    pytest.param((4, 4, SIZES), id="one channel per group"),
    pytest.param((12, 1, SIZES), id="short"),
    pytest.param((68, 4, SIZES), id="edges"),
    pytest.param((35, 5, LONG_SIZES), id="long", marks=pytest.mark.slow_interpreted),
]
LARGE = [
    pytest.param("channels", 5000, ((3, 7),), id="channels"),
    pytest.param("locations", 3, ((260, 251),), id="locations"),
]


def groups_over(over: str, groups: int) -> dict:
    return {"over": over, "groups": groups if over == "channels" else 1}


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradient(target, shape, dtype, layout, over):
    channels, groups, sizes = shape
    base = arguments(channels, over=over, sizes=sizes, dtype=dtype, layout=layout, device=target.device)
    compare(frs.weighted_kl, target, base, WRT, upstream=0.7, **groups_over(over, groups))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("over, channels, sizes", LARGE)
def test_distributions_larger_than_a_cache(target, over, channels, sizes, layout):
    """The kernels read these twice. A late largest logit changes all that was summed before it."""
    if INTERPRETED:
        channels, sizes = min(channels, 700), ((40, 41),)
    base = arguments(channels, over=over, sizes=sizes, layout=layout, device=target.device, batch=1)
    for name in WRT + ("teacher",):
        base[name][0][:, -1, -1, -1] = 30.0
    compare(frs.weighted_kl, target, base, WRT, over=over)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("student", DTYPES[:3], ids=str)
@pytest.mark.parametrize("teacher", DTYPES, ids=str)
def test_mixed_dtypes(target, student, teacher, over):
    mixed = arguments(over=over, dtype=student, teacher_dtype=teacher, device=target.device)
    _, grads = compare(frs.weighted_kl, target, mixed, WRT, over=over)
    assert all(grad.dtype == student for grad in grads)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_normalizers(target, normalizer, over, weighted):
    for layout in ("nchw", "channels_last"):
        base = arguments(over=over, layout=layout, device=target.device, weighted=weighted)
        compare(frs.weighted_kl, target, base, WRT, over=over, normalizer=normalizer)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("temperature", [0.25, 1.0, 10.0])
def test_temperatures(target, temperature, over):
    base = arguments(over=over, device=target.device)
    compare(frs.weighted_kl, target, base, WRT, over=over, temperature=temperature)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reductions(target, dtype, over):
    base = arguments(over=over, dtype=dtype, device=target.device, batch=3)
    weights = torch.tensor(
        [0.5, -2.0, 1.0], device=target.device, dtype=torch.promote_types(dtype, torch.float32)
    )
    compare(frs.weighted_kl, target, base, WRT, upstream=weights, over=over, reduction="none")
    compare(frs.weighted_kl, target, base, WRT, over=over, reduction="mean")


@pytest.mark.parametrize("form", [torch.bool, torch.int64, torch.float16, "channel", "flat"])
def test_forms_of_a_weight(target, form):
    base = arguments(device=target.device)
    plain = [(w > 0.5).float() for w in base["weight"]]
    forms = {"channel": lambda w: w[:, None], "flat": lambda w: w.flatten(1)}
    change = forms.get(form, lambda w: w.to(form))
    base["weight"] = [change(w) for w in plain]
    (loss,), grads = compare(frs.weighted_kl, target, base, WRT, groups=3)
    base["weight"] = plain
    (same,), same_grads = evaluate(frs.weighted_kl, base, WRT, backend=target.backend, groups=3)
    assert torch.equal(loss, same) and all(map(torch.equal, grads, same_grads))


@pytest.mark.parametrize("over", OVER)
def test_scales_on_the_device(target, over):
    base = arguments(over=over, device=target.device)
    numbers = {"scale": 0.25, "normalizer": 3.0}
    compare(frs.weighted_kl, target, base, WRT, over=over, **numbers)
    on_device = {name: torch.tensor(value, device=target.device) for name, value in numbers.items()}
    expected, expected_grads = evaluate(
        frs.weighted_kl, base, WRT, backend=target.backend, over=over, **numbers
    )
    actual, grads = evaluate(frs.weighted_kl, base, WRT, backend=target.backend, over=over, **on_device)
    assert torch.equal(actual[0], expected[0]) and all(map(torch.equal, grads, expected_grads))


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_logits_are_exactly_zero(target, dtype, layout, over):
    base = arguments(over=over, dtype=dtype, layout=layout, device=target.device)
    base["student"] = [t.clone(memory_format=torch.preserve_format) for t in base["teacher"]]
    (loss,), grads = evaluate(frs.weighted_kl, base, WRT, backend=target.backend, over=over, temperature=3.0)
    assert loss == 0 and not any(grad.count_nonzero() for grad in grads)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saturated_logits(target, dtype, layout, over):
    base = arguments(over=over, dtype=dtype, layout=layout, device=target.device, spread=300.0)
    compare(frs.weighted_kl, target, base, WRT, over=over)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("where", ["teacher", "both", "student", "whole distribution"])
def test_logits_of_minus_infinity(target, where, layout, over):
    """Bins that the teacher lacks count 0, those that the student alone lacks Inf; without any bin, NaN."""
    base = arguments(over=over, layout=layout, device=target.device)
    for name in ("student", "teacher"):
        for level in base[name][:-1]:  # the last has one location
            bins = level.flatten(2)[..., 0] if over == "locations" else level[:, 2]
            everything = level[0, :, 1, 1] if over == "channels" else level[0, 3]
            if where in (name, "both"):
                bins.fill_(-math.inf)
            if where == "whole distribution":
                everything.fill_(-math.inf)
    compare(frs.weighted_kl, target, base, WRT, over=over)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["student", "teacher", "weight"])
def test_nan_and_infinity(target, name, value, layout, over):
    base = arguments(over=over, layout=layout, device=target.device)
    base[name][1][1, 2, ...] = value  # a channel, a row of weights, or the weight of a channel
    if name != "weight":
        base[name][0][0, 1, 2, 3] = value
    base["student"][0][0, 0] = base["teacher"][0][0, 0]
    compare(frs.weighted_kl, target, base, WRT, over=over, normalizer=2.0)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_level_without_weights_is_zero(target, dtype, over):
    base = arguments(over=over, dtype=dtype, device=target.device)
    base["weight"][1].zero_()
    base["student"][1].fill_(math.inf)
    base["teacher"][1].fill_(math.nan)
    (loss,), grads = compare(frs.weighted_kl, target, base, WRT, over=over)
    assert loss > 0 and not grads[1].count_nonzero()


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("batch, channels, sizes", [(2, 6, ((0, 5), (3, 3))), (0, 6, SIZES), (2, 0, SIZES)])
def test_empty_levels(target, batch, channels, sizes, over):
    base = arguments(channels, over=over, batch=batch, sizes=sizes, device=target.device)
    (loss,), _ = compare(frs.weighted_kl, target, base, WRT, over=over)
    assert loss.isfinite()


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_the_loss_is_the_same_without_gradients(target, layout, over):
    base = arguments(35, over=over, sizes=LONG_SIZES, layout=layout, device=target.device)
    (expected,), _ = evaluate(frs.weighted_kl, base, WRT, backend=target.backend, over=over)
    (actual,), _ = evaluate(frs.weighted_kl, base, (), backend=target.backend, over=over)
    assert torch.equal(actual, expected) and not actual.requires_grad


@pytest.mark.parametrize("over", OVER)
def test_the_same_bits_run_after_run(target, over):
    base = arguments(35, over=over, sizes=LONG_SIZES, device=target.device)
    runs = [evaluate(frs.weighted_kl, base, WRT, backend=target.backend, over=over) for _ in range(3)]
    for (loss,), grads in runs[1:]:
        assert torch.equal(loss, runs[0][0][0]) and all(map(torch.equal, grads, runs[0][1]))


@example(
    over="channels", groups=1, per_group=1, sizes=[(1, 1)], batch=1, layout="rows", temperature=1.0, seed=0
)
@given(
    over=st.sampled_from(OVER),
    groups=st.integers(1, 4),
    per_group=st.integers(1, 40),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=4),
    batch=st.integers(1, 3),
    layout=st.sampled_from(LAYOUTS),
    temperature=st.floats(0.5, 20),
    seed=st.integers(0, 1000),
)
def test_any_shape(target, over, groups, per_group, sizes, batch, layout, temperature, seed):
    common = {"sizes": sizes, "batch": batch, "layout": layout, "device": target.device, "spread": 3.0}
    base = {
        "student": tensors(groups * per_group, seed=seed, **common),
        "teacher": tensors(groups * per_group, seed=seed + 1, **common),
    }
    options = groups_over(over, groups)
    compare(frs.weighted_kl, target, base, WRT, temperature=temperature, **options)
