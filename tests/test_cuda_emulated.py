"""The CUDA kernels without a GPU: the real sources, run by tests/cpp on the CPU, pass every backend's tests.

It shows neither what nvcc makes of them nor how fast that is: see test_cuda_build.py and, on a GPU,
test_cuda.py.
"""

import ctypes
import math

import emulated
import loss_cases
import pytest
import test_head
import test_imitation
import test_loss
import test_loss_backward
import test_loss_operator
import test_mask
import test_reduction
import test_scale_operator
import torch
from cases import DTYPES, LONG_SIZES, Target, compare, tensors

import frs_kernels as frs
from frs_kernels import dispatch
from frs_kernels.contract import NORMALIZERS

if (reason := emulated.unavailable()) is not None:
    pytest.skip(reason, allow_module_level=True)

FEATS = ("student_feats", "teacher_feats")
HEADS = ("student_logits", "teacher_logits")
WRT = ("student_feats", "student_logits")


@pytest.fixture
def target(monkeypatch) -> Target:
    monkeypatch.setitem(dispatch.BACKENDS, "emulated", emulated)
    return Target("emulated", "cpu")


def _tests_of(module):
    tests = {name: staticmethod(value) for name, value in vars(module).items() if name.startswith("test_")}
    return type(module.__name__, (), tests)


TestMask = _tests_of(test_mask)
TestImitation = _tests_of(test_imitation)
TestHead = _tests_of(test_head)
TestLoss = _tests_of(test_loss)
TestLossBackward = _tests_of(test_loss_backward)
TestLossOperator = _tests_of(test_loss_operator)
TestReduction = _tests_of(test_reduction)
TestScaleOperator = _tests_of(test_scale_operator)


def guarded(values: list[torch.Tensor], offset: int) -> list[torch.Tensor]:
    """The same values in views that begin ``offset`` elements into memory full of NaN."""
    views = []
    for value in values:
        flat = torch.full((value.numel() + 64,), float("nan"), dtype=value.dtype)
        view = torch.as_strided(flat, value.size(), value.stride(), offset)
        views.append(view.copy_(value))
    return views


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("offset", [0, 1, 8])
@pytest.mark.parametrize("normalizer", ["mask", "batch", "mask_all_levels"])
def test_any_alignment_and_nothing_beyond_the_tensors(target, dtype, layout, offset, normalizer):
    base = loss_cases.arguments(24, 16, sizes=((8, 12), (3, 5)), dtype=dtype, layout=layout)
    views = {name: guarded(values, offset) for name, values in base.items()}
    losses, grads = compare(frs.frs_loss, target, views, WRT, normalizer=normalizer)
    assert all(loss.isfinite().all() for loss in losses)
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("locations", [(8, 16), (7, 11)])
def test_sums_over_many_channels_stay_in_range(target, layout, locations):
    """Each logit of 0 doubles the product whose logarithm is the loss, and 2^3000 overflows a float."""
    base = loss_cases.arguments(4, 3000, sizes=(locations,), layout=layout, batch=1)
    base["student_logits"] = [torch.zeros_like(t) for t in base["student_logits"]]
    compare(frs.frs_loss, target, base, WRT)
    compare(frs.frs_loss, target, base, WRT, normalizer="numel")
    compare(frs.frs_loss, target, base, ())


def test_two_launches_forward_and_one_per_term_backward(target):
    base = loss_cases.arguments(8, 12, sizes=LONG_SIZES)
    leaves = {name: [t.clone().requires_grad_(name in WRT) for t in base[name]] for name in base}

    def launched(function):
        before = emulated.launches()
        result = function()
        return result, emulated.launches() - before

    masks, count = launched(lambda: frs.frs_mask(base["teacher_logits"], backend="emulated"))
    assert count == 1
    result, count = launched(lambda: frs.frs_loss(**leaves, backend="emulated"))
    assert count == 2
    _, count = launched(lambda: result.total.backward())
    assert count == 2
    for normalizer in ("mask", "numel", "mask_all_levels"):
        _, count = launched(
            lambda n=normalizer: frs.frs_loss(**leaves, masks=masks, normalizer=n, backend="emulated")
        )
        assert count == 2
    with torch.no_grad():
        _, count = launched(lambda: frs.frs_loss(**base, backend="emulated"))
    assert count == 2


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "odd"])
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_channel_weights_with_a_mask_from_the_logits(target, layout, dtype):
    """Only the operator combines them. A call with the same mask given must agree."""
    base = loss_cases.arguments(24, 16, sizes=((8, 12), (3, 5)), dtype=dtype, layout=layout)
    base = [[t.contiguous() if layout == "odd" else t for t in base[name]] for name in (*FEATS, *HEADS)]
    channel_weights = [torch.rand(2, 24, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    ops = emulated.namespace()

    value = NORMALIZERS.index("value")

    def run(masks):
        losses, _, pending, feats, logits = ops.loss(
            *base, masks, channel_weights, value, 3.0, None, 0.5, None, 2.0, None, 0.0, True, True, False
        )
        grads = [g.float() * factor for g, factor in zip(feats + logits, pending.flatten(), strict=True)]
        return losses, grads

    (losses, grads), (expected, expected_grads) = run([]), run(ops.mask(base[3]))
    torch.testing.assert_close(losses, expected)
    tolerance = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-7}
    torch.testing.assert_close(grads, expected_grads, **tolerance)


@pytest.mark.parametrize("masks_given", [True, False])
@pytest.mark.parametrize("grads_wanted", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_focal_exponent_matters_to_no_call_without_a_head_term(target, dtype, masks_given, grads_wanted):
    base = loss_cases.arguments(24, 16, sizes=((8, 12), (3, 5)), dtype=dtype)
    ops = emulated.namespace()
    logits = base["teacher_logits"]
    masks, logits = (ops.mask(logits), []) if masks_given else ([], logits)
    features = [base[name] for name in FEATS]

    def run(beta):
        numbers = (0, 0.0, None, 1.0, None, 1.0, None, beta, grads_wanted, False, False)
        return ops.loss(*features, [], logits, masks, [], *numbers)

    torch.testing.assert_close(run(2.0), run(0.0), rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_blocks_that_span_images(target, layout, dtype):
    """An image of one to three warp tiles, eight of which make a block."""
    for normalizer in ("mask", "batch", "mask_all_levels"):
        test_loss_operator.check(
            test_loss_operator.make_call(
                target, mode="mask_first", batch=21, sizes=((2, 3), (5, 7)), dtype=dtype,
                layouts=(layout, layout), channels=(9, 20), normalizer=normalizer,
            ),
            target,
        )  # fmt: skip


def test_a_factor_per_image_at_any_alignment(target):
    factors, pending = torch.tensor([2.0, 1.0, -0.5]), torch.tensor([1.0, 3.0])
    for offset in range(8):
        test_scale_operator.check(
            target, [(3, 5, 7), (3, 129, 3)], [offset, 1], torch.float16, factors, pending
        )


def test_large_calls_have_tall_tiles(target):
    """Above kEnoughBlocks blocks (tiles.h), a warp tile has more rows."""
    logits = {name: tensors(96, sizes=((96, 128),), batch=4, seed=i) for i, name in enumerate(HEADS)}
    masks = [torch.ones(4, 96, 128)]
    compare(frs.weighted_bce, target, logits, ("student_logits",), masks=masks)


def test_the_logarithm_of_a_location_is_right_for_every_input():
    """Including the documented error of lg2.approx: 2^-22, absolute below lg2(2) and relative above."""
    steps = torch.arange(0, 0x7F800000 - 0x20000000, 97, dtype=torch.int32) + 0x20000000  # 1e-19 to 3e38
    q = steps.view(torch.float32)
    actual = torch.empty_like(q)
    emulated.load().emulated_log1p_nonnegative(
        ctypes.c_void_p(q.data_ptr()), ctypes.c_void_p(actual.data_ptr()), ctypes.c_int64(len(q))
    )
    exact = q.double().log1p()
    hardware = torch.where(q < 0.25, 0.0, exact.clamp(min=math.log(2)) * 2.0**-22)
    assert ((actual.double() - exact).abs() + hardware <= 1.1e-6 * exact).all()
    special = torch.tensor([0.0, float("inf"), float("nan")])
    actual = torch.empty_like(special)
    emulated.load().emulated_log1p_nonnegative(
        ctypes.c_void_p(special.data_ptr()), ctypes.c_void_p(actual.data_ptr()), ctypes.c_int64(3)
    )
    assert torch.equal(actual.nan_to_num(nan=-1.0), special.nan_to_num(nan=-1.0))
