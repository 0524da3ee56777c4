"""frs_loss: mask and both terms at once, in every dtype, layout and normalizer, and non-finite values."""

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, LAYOUTS, LONG_SIZES, NORMALIZERS, SIZES, compare, evaluate, fields, random_masks
from hypothesis import given
from hypothesis import strategies as st
from loss_cases import WRT, arguments

import frs_kernels as frs

SHAPES = [  # channels of the features and of the logits, sizes of the levels
    pytest.param((8, 12, SIZES), id="short"),
    pytest.param((33, 47, LONG_SIZES), id="long", marks=pytest.mark.slow_interpreted),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_and_gradients(target, shape, dtype, layout):
    feats, logits, sizes = shape
    base = arguments(feats, logits, sizes=sizes, dtype=dtype, layout=layout, device=target.device)
    compare(frs.frs_loss, target, base, WRT, upstream=0.7, feat_weight=0.5, head_weight=2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_padded_rows(target, dtype):
    """Crops of larger levels: one stride within a row of locations, another from row to row."""
    sizes = [(h + 3, w + 5) for h, w in SIZES[:3]]
    crops = {
        name: [level[..., 1:-2, 2:-3] for level in levels]
        for name, levels in arguments(sizes=sizes, dtype=dtype, device=target.device).items()
    }
    compare(frs.frs_loss, target, crops, WRT)
    compare(frs.frs_loss, target, crops, ())


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_normalizers(target, normalizer):
    compare(frs.frs_loss, target, arguments(device=target.device), WRT, normalizer=normalizer)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "split"])
@pytest.mark.parametrize("shape", SHAPES)
def test_normalizers_in_every_dtype_and_layout(target, shape, layout, dtype, normalizer):
    """Z is a sum of S or known beforehand; float16 gradients are stored without the factor scale / Z."""
    feats, logits, sizes = shape
    base = arguments(feats, logits, sizes=sizes, dtype=dtype, layout=layout, device=target.device)
    compare(frs.frs_loss, target, base, WRT, upstream=0.7, normalizer=normalizer, head_weight=2.0)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("known", [True, False], ids=["number", "tensor"])
@pytest.mark.parametrize("wrt", [WRT, ()], ids=["gradients", "single pass"])
def test_a_level_whose_normalizer_is_0_contributes_nothing(target, layout, dtype, known, wrt):
    base = arguments(16, 24, dtype=dtype, layout=layout, device=target.device)
    for name in base:
        base[name][0][0, 3, 2, 1], base[name][0][1, 2, 0, 0] = float("nan"), float("inf")
    zero = 0.0 if known else torch.zeros((), device=target.device)
    for backend in (target.backend, "eager"):
        losses, grads = evaluate(frs.frs_loss, base, wrt, normalizer=zero, backend=backend)
        assert all((loss == 0).all() for loss in losses)
        assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("normalizer", ["mask", "numel"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_mixed_dtypes(target, layout, normalizer):
    for feats, logits in ((8, 12), (16, 24)):
        mixed = arguments(
            feats, logits, dtype=torch.bfloat16, teacher_dtype=torch.float32, layout=layout,
            device=target.device,
        )  # fmt: skip
        mixed["student_feats"] = [t.half() for t in mixed["student_feats"]]
        _, grads = compare(frs.frs_loss, target, mixed, WRT, normalizer=normalizer)
        assert {g.dtype for g in grads} == {torch.float16, torch.bfloat16}


def test_total_is_the_sum_of_the_weighted_terms(target):
    base = arguments(device=target.device)
    plain = frs.frs_loss(**base, backend=target.backend)
    weighted = frs.frs_loss(**base, feat_weight=0.5, head_weight=3.0, backend=target.backend)
    torch.testing.assert_close(weighted.feature, 0.5 * plain.feature)
    torch.testing.assert_close(weighted.head, 3 * plain.head)
    torch.testing.assert_close(weighted.total, weighted.feature + weighted.head)


def test_masks_computed_before_give_the_same(target):
    base = arguments(device=target.device)
    masks = [frs.frs_mask(t, backend=target.backend) for t in base["teacher_logits"]]
    expected, expected_grads = evaluate(frs.frs_loss, base, WRT, backend=target.backend)
    actual, grads = evaluate(frs.frs_loss, base, WRT, masks=masks, backend=target.backend)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(grads, expected_grads)


def test_other_masks(target):
    compare(
        frs.frs_loss, target, arguments(device=target.device), WRT, masks=random_masks(device=target.device)
    )


def test_without_gradient_gives_the_same_losses(target):
    for layout in LAYOUTS:
        base = arguments(layout=layout, device=target.device)
        with torch.no_grad():
            actual = frs.frs_loss(**base, backend=target.backend)
        expected, _ = evaluate(frs.frs_loss, base, WRT, backend=target.backend)
        torch.testing.assert_close(fields(actual), expected)
        assert not actual.total.requires_grad


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_single_pass_against_the_reference(target, dtype):
    for layout in ("nchw", "channels_last"):
        base = arguments(33, 47, sizes=LONG_SIZES, dtype=dtype, layout=layout, device=target.device)
        compare(frs.frs_loss, target, base, ())


@pytest.mark.parametrize("leave_out", [("student_logits",), ("student_feats", "teacher_feats")])
def test_one_term_alone(target, leave_out):
    base = arguments(device=target.device)
    both = frs.frs_loss(**base, backend=target.backend)
    base.update(dict.fromkeys(leave_out))
    wrt = [name for name in WRT if name not in leave_out]
    alone, _ = compare(frs.frs_loss, target, base, wrt)
    if "student_logits" in leave_out:
        share = both.feature_levels, both.head_levels * 0, both.feature, both.head * 0, both.feature
    else:
        share = both.feature_levels * 0, both.head_levels, both.feature * 0, both.head, both.head
    torch.testing.assert_close(alone, share)


@pytest.mark.parametrize("name", ["student_feats", "teacher_feats", "teacher_logits", "student_logits"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_nan_reaches_the_loss(target, layout, name):
    for wrt, normalizer in ((WRT, "mask"), (WRT, "numel"), ((), "mask")):
        base = arguments(layout=layout, device=target.device)
        base[name][1][1, 5, 2, 3] = float("nan")
        losses, _ = compare(frs.frs_loss, target, base, wrt, normalizer=normalizer)
        assert losses[-1].isnan()


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("wrt", [WRT, ()], ids=["gradients", "single pass"])
def test_a_level_whose_mask_is_zero_contributes_nothing(target, dtype, wrt):
    base = arguments(dtype=dtype, device=target.device)
    with_others = {name: levels[1:] for name, levels in base.items()}
    base["teacher_logits"][0].fill_(float("-inf"))
    base["student_logits"][0][0, 3, 2, 1] = float("-inf")
    base["student_feats"][0][0, 3, 2, 1], base["teacher_feats"][0][1, 0, 0, 0] = float("inf"), float("nan")
    for backend in (target.backend, "eager"):
        losses, grads = evaluate(frs.frs_loss, base, wrt, backend=backend)
        expected, _ = evaluate(frs.frs_loss, with_others, (), backend=backend)
        assert losses[0][0] == losses[1][0] == 0
        levels = [F.pad(of_term, (1, 0)) for of_term in expected[:2]]
        torch.testing.assert_close(losses, (*levels, *expected[2:]))
        if wrt:
            assert (grads[0] == 0).all() and (grads[len(SIZES)] == 0).all()


def test_float16_gradients_survive_until_the_scaler_lifts_them(target):
    """Unscaled, these gradients are far below the smallest float16; GradScaler multiplies by 2^16."""
    base = arguments(sizes=LONG_SIZES, dtype=torch.float16, device=target.device)
    _, grads = compare(frs.frs_loss, target, base, WRT, upstream=2.0**16, feat_weight=1e-5, head_weight=1e-5)
    assert all((g != 0).float().mean() > 0.5 for g in grads)


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("normalizer", ["mask", "batch", "mask_all_levels"])
def test_same_inputs_give_the_same_bits(target, normalizer):
    base = arguments(33, 47, sizes=LONG_SIZES, device=target.device)
    options = {"normalizer": normalizer, "backend": target.backend}
    runs = [evaluate(frs.frs_loss, base, WRT, **options) for _ in range(3)]
    for losses, grads in runs[1:]:
        assert all(map(torch.equal, losses, runs[0][0]))
        assert all(map(torch.equal, grads, runs[0][1]))


def test_under_autocast(target):
    base = arguments(dtype=torch.bfloat16, device=target.device)
    outside, _ = evaluate(frs.frs_loss, base, WRT, backend=target.backend)
    with torch.autocast(target.device, dtype=torch.bfloat16):
        inside, _ = evaluate(frs.frs_loss, base, WRT, backend=target.backend)
    assert all(map(torch.equal, inside, outside))
    assert inside[-1].dtype == torch.float32


@given(
    feats=st.integers(1, 20), logits=st.integers(1, 30), height=st.integers(1, 9), width=st.integers(1, 30),
    layout=st.sampled_from(LAYOUTS), dtype=st.sampled_from(DTYPES), batch=st.integers(1, 3),
    normalizer=st.sampled_from(NORMALIZERS), wrt=st.sampled_from([WRT, WRT[:1], WRT[1:], ()]),
)  # fmt: skip
def test_any_shape(target, feats, logits, height, width, layout, dtype, batch, normalizer, wrt):
    base = arguments(
        feats, logits, sizes=[(height, width), (2, 3)], dtype=dtype, layout=layout,
        device=target.device, batch=batch,
    )  # fmt: skip
    compare(frs.frs_loss, target, base, wrt, normalizer=normalizer)
