"""The registered operators: schema, fakes, aliasing, as torch.library.opcheck sees them."""

import pytest
import torch
from cases import INTERPRETED, LAYOUTS, random_masks, tensors

import frs_kernels as frs
from frs_kernels import dispatch
from frs_kernels.contract import SCHEMAS


def operators(target):
    return dispatch.load(target.backend).namespace()


def loss_arguments(target, dtype, layout, *, masks=False, channel_weights=False, tensor_scalars=False):
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
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "odd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_loss_operator(target, dtype, layout):
    for wanted in ((True, True), (True, False), (False, True), (False, False)):
        arguments = loss_arguments(target, dtype, layout)
        torch.library.opcheck(operators(target).loss.default, (*arguments, *wanted))


def test_loss_operator_with_everything_optional(target):
    arguments = loss_arguments(
        target, torch.float32, "nchw", masks=True, channel_weights=True, tensor_scalars=True
    )
    torch.library.opcheck(operators(target).loss.default, (*arguments, True, True))


def test_scale_operator(target):
    grads = tensors(5, device=target.device)
    factor = torch.tensor(3.0, device=target.device)
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


def test_pending_is_one_unless_float16(target):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        arguments = loss_arguments(target, dtype, "nchw")
        _, pending, *_ = operators(target).loss(*arguments, True, True)
        assert (pending == 1).all() and pending.shape == (2, 2)
    arguments = loss_arguments(target, torch.float16, "nchw")
    _, pending, feat_grads, _ = operators(target).loss(*arguments, True, True)
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
        operators(target).loss(*arguments, True, True)
    arguments = list(loss_arguments(target, torch.float32, "nchw"))
    arguments[1] = [t[..., :-1].contiguous() for t in arguments[1]]
    with pytest.raises(RuntimeError):
        operators(target).loss(*arguments, True, True)
