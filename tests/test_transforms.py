"""Forward-mode derivatives and torch.func: eager computes them, fused backends never return a wrong value."""

import pytest
import torch
from cases import random_masks, tensors
from torch.autograd import forward_ad
from torch.func import grad, jacfwd, jvp, vmap

import frs_kernels as frs
from frs_kernels import dispatch
from frs_kernels.inputs import LossInputs

SIZE = ((3, 4),)
(STUDENT,), (TEACHER,), (LOGITS,), (TANGENT,) = (tensors(5, sizes=SIZE, seed=seed) for seed in range(4))
(MASK,) = random_masks(sizes=SIZE)


def functions(backend, device):
    """The functions that are differentiated in STUDENT, by name."""
    teacher, logits, mask = (t.to(device) for t in (TEACHER, LOGITS, MASK))
    return {
        "mse": lambda x: frs.weighted_mse(x, teacher, mask, backend=backend),
        "bce": lambda x: frs.weighted_bce(x, logits, mask, beta=1.5, backend=backend),
        "loss": lambda x: frs.frs_loss(x, teacher, logits, x, backend=backend).total,
        "mask": lambda x: frs.frs_mask(x, backend=backend).sum(),
    }


def dual(function, x, tangent):
    """The derivative carried by a dual tensor; 0 where the result has none."""
    with forward_ad.dual_level():
        derivative = forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent))).tangent
    return torch.zeros(()) if derivative is None else derivative


DERIVATIVES = {
    "jvp": lambda f, x, v: jvp(f, (x,), (v,))[1],
    "dual": dual,
    "jacfwd": lambda f, x, v: (jacfwd(f)(x) * v).sum(),
    "grad": lambda f, x, v: (grad(f)(x) * v).sum(),
    "vmap": lambda f, x, v: vmap(f)(torch.stack([x, x + v])),
}


@pytest.mark.parametrize("name", ["mse", "bce", "loss", "mask"])
@pytest.mark.parametrize("transform", DERIVATIVES)
def test_a_fused_backend_refuses_and_auto_takes_eager(target, name, transform):
    x, v = STUDENT.to(target.device), TANGENT.to(target.device)
    fused, auto, plain = (functions(kind, target.device)[name] for kind in (target.backend, "auto", "eager"))
    if transform == "vmap":
        expected = torch.stack([plain(x), plain(x + v)])
    elif name == "mask":
        expected = torch.zeros((), device=target.device)  # a constant
    else:
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(fused(leaf), leaf)
        expected = (gradient * v).sum()
    actual = DERIVATIVES[transform](auto, x, v)
    torch.testing.assert_close(
        actual, expected, check_dtype=False, check_device=False
    )  # torch makes it float64
    if (name, transform) != ("mask", "dual"):  # nothing to differentiate: the values are all there is
        with pytest.raises(RuntimeError, match=f"'{target.backend}' cannot run: only eager"):
            DERIVATIVES[transform](fused, x, v)


def test_tangents_of_constants_do_not_keep_the_kernels_away(target):
    x, v = STUDENT.to(target.device), TANGENT.to(target.device)
    with forward_ad.dual_level():
        teacher = forward_ad.make_dual(x + 1, v)
        loss = frs.weighted_mse(x, teacher, MASK.to(target.device), backend=target.backend)
        assert forward_ad.unpack_dual(loss).tangent is None


def test_the_report_says_why():
    def chosen(x):
        report = frs.explain_backend(None, None, x, x)
        assert report.chosen == "eager" and "only eager" in report.reasons["native"]
        return x.sum()

    grad(chosen)(LOGITS)
    assert "only eager" not in frs.explain_backend(None, None, LOGITS, LOGITS).reasons.get("native", "")
    assert dispatch.why_not("eager", LossInputs(teacher_logits=[LOGITS])) is None
