"""The registered operators: schema, fakes, aliasing, as torch.library.opcheck sees them."""

import warnings

import pytest
import torch
from cases import INTERPRETED, LAYOUTS, random_masks, tensors

import frs_kernels as frs
from frs_kernels import dispatch
from frs_kernels.contract import SCHEMAS


def operators(target):
    return dispatch.load(target.backend).namespace()


def loss_arguments(target, dtype, layout, *, masks=False, channel_weights=False, tensor_scalars=False):
    """All but the last three: feat_grad, head_grad, per_image."""
    common = {"sizes": [(5, 7), (3, 4)], "dtype": dtype, "layout": layout, "device": target.device}
    accumulation = torch.float64 if dtype == torch.float64 else torch.float32
    scalar = torch.tensor(0.5, dtype=accumulation, device=target.device) if tensor_scalars else None
    masks_given = (
        random_masks(sizes=common["sizes"], device=target.device, dtype=accumulation) if masks else []
    )
    channels = [torch.rand(2, 6, dtype=accumulation, device=target.device)] * 2 if channel_weights else []
    return (
        tensors(6, seed=1, **common), tensors(6, seed=2, **common),
        tensors(9, seed=3, **common), tensors(9, seed=4, **common),
        masks_given, channels, 4 if tensor_scalars else 0, 2.0, scalar, 0.5, scalar, 2.0, scalar, 0.0,
    )  # fmt: skip


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "odd"])
def test_mask_operator(target, layout):
    logits = tensors(9, layout=layout, device=target.device)
    torch.library.opcheck(operators(target).mask.default, (logits,))


@pytest.mark.slow_interpreted
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        *((torch.float32, layout) for layout in LAYOUTS if layout != "odd"),
        (torch.float16, "nchw"),
        (torch.float64, "channels_last"),
    ],
    ids=str,
)
def test_loss_operator(target, dtype, layout):
    for wanted in ((True, True), (True, False), (False, True), (False, False)):
        arguments = loss_arguments(target, dtype, layout)
        per_image = wanted[0] == wanted[1]
        torch.library.opcheck(operators(target).loss.default, (*arguments, *wanted, per_image))


@pytest.mark.parametrize("name", ["imitation", "head"])
def test_operators_of_one_term(target, name):
    arguments = list(loss_arguments(target, torch.float32, "nchw", masks=True))
    absent = slice(2, 4) if name == "imitation" else slice(0, 2)
    arguments[absent] = [], []
    switches = name == "imitation", name == "head", True
    operator = getattr(operators(target), name)
    torch.library.opcheck(operator.default, (*arguments, *switches))
    *results, feat_grads, logit_grads = operator(*arguments, *switches)
    *expected, expected_feat_grads, expected_logit_grads = operators(target).loss(*arguments, *switches)
    assert all(map(torch.equal, results, expected))
    grads, expected_grads = feat_grads + logit_grads, expected_feat_grads + expected_logit_grads
    assert len(grads) == 2 and all(map(torch.equal, grads, expected_grads))


@pytest.mark.parametrize("name", ["loss", "imitation", "head"])
def test_operators_record_nothing(target, name):
    """Their gradients are results. What they return is a constant, wherever they are called."""
    feats, teacher_feats, logits, teacher_logits, *others = loss_arguments(
        target, torch.float32, "nchw", masks=True
    )
    arguments = (
        [t.requires_grad_() for t in feats] if name != "head" else [],
        teacher_feats if name != "head" else [],
        [t.requires_grad_() for t in logits] if name != "imitation" else [],
        teacher_logits if name != "imitation" else [],
        *others,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        *results, feat_grads, logit_grads = getattr(operators(target), name)(*arguments, True, True, False)
    results += feat_grads + logit_grads
    assert len(results) == (7 if name == "loss" else 5)
    assert not any(result.requires_grad for result in results)


def test_loss_operator_with_everything_optional(target):
    arguments = loss_arguments(
        target, torch.float32, "nchw", masks=True, channel_weights=True, tensor_scalars=True
    )
    torch.library.opcheck(operators(target).loss.default, (*arguments, True, True, False))


@pytest.mark.parametrize("factor", [3.0, [3.0, 0.5]], ids=["one factor", "one per image"])
def test_scale_operator(target, factor):
    grads = tensors(5, device=target.device)
    factor = torch.tensor(factor, device=target.device)
    pending = torch.rand(len(grads), device=target.device)
    for operator in (operators(target).scale_, operators(target).scaled):
        torch.library.opcheck(operator.default, (grads, factor, pending))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("factor", [1.0, 2.5, 0.0])
def test_scale_multiplies_in_place_and_scaled_does_not(target, factor, dtype):
    for layout in ("nchw", "channels_last"):
        grads = tensors(5, sizes=[(9, 31), (5, 7)], dtype=dtype, layout=layout, device=target.device)
        accumulation = torch.float64 if dtype == torch.float64 else torch.float32
        pending = torch.tensor([1.0, 0.25], dtype=accumulation, device=target.device)
        expected = [
            (g.to(accumulation) * (factor * p)).to(dtype) for g, p in zip(grads, pending, strict=True)
        ]
        before = [grad.clone() for grad in grads]
        scale = torch.tensor(factor, dtype=accumulation, device=target.device), pending
        fresh = operators(target).scaled(grads, *scale)
        assert all(map(torch.equal, grads, before))
        operators(target).scale_(grads, *scale)
        assert all(map(torch.equal, grads, fresh))
        assert [grad.stride() for grad in grads] == [grad.stride() for grad in fresh]
        if INTERPRETED and dtype == torch.bfloat16:  # the interpreter's casts to bfloat16 truncate
            torch.testing.assert_close(grads, expected, rtol=2**-7, atol=0)
        else:
            assert all(map(torch.equal, grads, expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("factors", [[2.5, 1.0, 0.0, 4.0], [3.0], []], ids=["4 images", "1 image", "none"])
def test_scale_multiplies_each_image_by_its_own_factor(target, factors, dtype):
    accumulation = torch.float64 if dtype == torch.float64 else torch.float32
    factor = torch.tensor(factors, dtype=accumulation, device=target.device)
    pending = torch.tensor([1.0, 0.25, 2.0], dtype=accumulation, device=target.device)
    for layout in ("nchw", "channels_last", "flat"):
        options = {"batch": len(factors), "dtype": dtype, "layout": layout, "device": target.device}
        grads = tensors(5, sizes=[(9, 31), (5, 7), (1, 1)], **options)
        products = [(factor * p).reshape(-1, *[1] * (grads[0].dim() - 1)) for p in pending]
        expected = [(g.to(accumulation) * p).to(dtype) for g, p in zip(grads, products, strict=True)]
        operators(target).scale_(grads, factor, pending)
        if INTERPRETED and dtype == torch.bfloat16:  # the interpreter's casts to bfloat16 truncate
            torch.testing.assert_close(grads, expected, rtol=2**-7, atol=0)
        else:
            assert all(map(torch.equal, grads, expected))


SIGNALING = {torch.float32: 0x7F800001, torch.bfloat16: 0x7F81, torch.float64: 0x7FF0000000000001}


@pytest.mark.parametrize("dtype", SIGNALING, ids=str)
@pytest.mark.parametrize("factor", [1.0, [1.0, 2.0, 0.5, 1.0]], ids=["one factor", "one per image"])
def test_scale_leaves_what_it_would_multiply_by_1(target, factor, dtype):
    """Arithmetic makes a signaling NaN quiet, so its bits show whether they were written."""
    accumulation = torch.float64 if dtype == torch.float64 else torch.float32
    factor = torch.tensor(factor, dtype=accumulation, device=target.device)
    pending = torch.tensor([1.0, 0.5], dtype=accumulation, device=target.device)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    grads = [torch.full((4, 3, *size), SIGNALING[dtype], dtype=bits, device=target.device).view(dtype)
             for size in ((7, 19), (1, 1))]  # fmt: skip
    operators(target).scale_(grads, factor, pending)
    for grad, p in zip(grads, pending, strict=True):
        untouched = (grad.view(bits) == SIGNALING[dtype]).flatten(1).all(dim=1)
        assert torch.equal(untouched, (factor * p == 1.0).expand(4))


def test_pending_is_one_unless_float16(target):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        arguments = loss_arguments(target, dtype, "nchw")
        _, _, pending, *_ = operators(target).loss(*arguments, True, True, False)
        assert (pending == 1).all() and pending.shape == (2, 2)
    arguments = loss_arguments(target, torch.float16, "nchw")
    _, _, pending, feat_grads, _ = operators(target).loss(*arguments, True, True, False)
    mask = frs.frs_mask(arguments[3][0], backend=target.backend)
    torch.testing.assert_close(pending[:, 0], torch.tensor([0.5, 2.0], device=target.device) / mask.sum())
    raw = 2 * mask[:, None] * (arguments[0][0].float() - arguments[1][0].float())
    torch.testing.assert_close(feat_grads[0], raw.half(), rtol=2e-3, atol=1e-6)


def test_both_namespaces_have_the_same_schemas():
    for name in SCHEMAS:
        native, triton = (
            str(getattr(getattr(torch.ops, namespace), name).default._schema).split("::", 1)[1]
            for namespace in ("frs_kernels", "frs_kernels_triton")
        )
        assert native == triton


def test_bad_lists_are_refused_rather_than_read(target):
    arguments = list(loss_arguments(target, torch.float32, "nchw"))
    arguments[1] = arguments[1][:1]
    with pytest.raises(RuntimeError):
        operators(target).loss(*arguments, True, True, False)
    arguments = list(loss_arguments(target, torch.float32, "nchw"))
    arguments[1] = [t[..., :-1].contiguous() for t in arguments[1]]
    with pytest.raises(RuntimeError):
        operators(target).loss(*arguments, True, True, False)
