"""The operator kl as it is registered: schema, fakes and aliasing, as torch.library.opcheck sees them."""

import warnings

import pytest
import torch
from cases import SIZES
from kl_cases import arguments

from frs_kernels import dispatch
from frs_kernels.autograd import kl_arguments
from frs_kernels.inputs import KLInputs

pytestmark = pytest.mark.usefixtures("has_kl")
SMALL = ((5, 7), (3, 4))


@pytest.fixture
def operator(target):
    return dispatch.load(target.backend).namespace().kl


def inputs_of(base: dict, **options) -> KLInputs:
    return KLInputs(base["student"], base["teacher"], base.get("weight", []), **options).canonical()


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("over", ["channels", "locations"])
@pytest.mark.parametrize(
    "dtype, layout",
    [(torch.float32, layout) for layout in ("nchw", "channels_last", "flat", "split", "rows")]
    + [(torch.float16, "nchw"), (torch.float64, "channels_last")],
    ids=str,
)
def test_operator(target, operator, dtype, layout, over):
    for wants_grad, per_image, weighted in ((True, True, True), (True, False, False), (False, False, True)):
        base = arguments(
            sizes=SMALL, dtype=dtype, layout=layout, over=over, weighted=weighted, device=target.device
        )
        inputs = inputs_of(base, over=over, per_image=per_image, temperature=2.0)
        torch.library.opcheck(operator.default, tuple(kl_arguments(inputs, wants_grad)))


def test_operator_with_groups_and_scalars_on_the_device(target, operator):
    scalar = torch.tensor(0.5, device=target.device)
    base = arguments(sizes=SMALL, device=target.device)
    inputs = inputs_of(base, groups=4, normalizer=scalar, scale=scalar)
    torch.library.opcheck(operator.default, tuple(kl_arguments(inputs, True)))


def test_operator_records_nothing(target, operator):
    """Its gradients are results. What it returns is a constant, wherever it is called."""
    inputs = inputs_of(arguments(device=target.device))
    inputs.student = [t.requires_grad_() for t in inputs.student]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # which torch raises for a graph without a backward
        loss, pending, grads = operator(*kl_arguments(inputs, True))
    assert len(grads) == len(SIZES) and not any(t.requires_grad for t in (loss, pending, *grads))
    assert operator(*kl_arguments(inputs, False))[2] == []


def test_pending_is_one_unless_float16(target, operator):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        inputs = inputs_of(arguments(dtype=dtype, device=target.device), scale=0.5)
        _, pending, _ = operator(*kl_arguments(inputs, True))
        assert (pending == 1).all() and pending.shape == (len(SIZES),)
    base = arguments(dtype=torch.float16, device=target.device)
    _, pending, grads = operator(*kl_arguments(inputs_of(base, scale=0.5, temperature=2.0), True))
    torch.testing.assert_close(pending, torch.stack([0.5 / w.sum() for w in base["weight"]]))
    difference = base["student"][0].float().div(2).softmax(1) - base["teacher"][0].float().div(2).softmax(1)
    raw = 2 * base["weight"][0][:, None] * difference
    torch.testing.assert_close(grads[0], raw.half(), rtol=2e-3, atol=1e-6)


def test_bad_lists_are_refused_rather_than_read(target, operator):
    base = arguments(device=target.device)
    given = kl_arguments(inputs_of(base), True)
    for name, position in (("student", 0), ("teacher", 1), ("weight", 2)):
        for wrong in (base[name][:1], [t[..., :-1].contiguous() for t in base[name]]):
            with pytest.raises(RuntimeError):
                operator(*given[:position], wrong, *given[position + 1 :])
