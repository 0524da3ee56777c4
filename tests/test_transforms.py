"""torch.func and forward-mode derivatives: fused backends compute them or refuse, eager computes them all."""

import pytest
import torch
from cases import random_masks, tensors
from loss_cases import arguments
from torch.autograd import forward_ad
from torch.func import functional_call, functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import frs_kernels as frs

pytestmark = pytest.mark.slow_interpreted
SIZE = ((3, 4),)
(STUDENT,), (TEACHER,), (LOGITS,), (TANGENT,) = (tensors(5, sizes=SIZE, seed=seed) for seed in range(4))
(MASK,) = random_masks(sizes=SIZE)
NAMES = ("mse", "bce", "loss", "none", "levels", "mask")
AUTO = "auto"


def functions(backend, device):
    """The functions that are differentiated in STUDENT, by name."""
    teacher, logits, mask = (t.to(device) for t in (TEACHER, LOGITS, MASK))
    upstream = torch.tensor([1.0, -2.0], device=device)
    return {
        "mse": lambda x: frs.weighted_mse(x, teacher, mask, backend=backend),
        "bce": lambda x: frs.weighted_bce(x, logits, mask, beta=1.5, backend=backend),
        "loss": lambda x: (
            frs.frs_loss(
                x, teacher, student_logits=x, teacher_logits=logits, feat_weight=0.3, backend=backend
            ).total
        ),
        "none": lambda x: (
            upstream
            * frs.weighted_mse(x, teacher, mask, reduction="none", normalizer="batch", backend=backend)
        ).sum(),
        "levels": lambda x: frs.weighted_mse(
            [x, 2 * x], [teacher, teacher], [mask, mask / 2], normalizer="mask_all_levels", backend=backend
        ),
        "mask": lambda x: frs.frs_mask(x, backend=backend).sum(),
    }


def dual(function, x, tangent):
    """The derivative carried by a dual tensor; 0 where the result has none."""
    with forward_ad.dual_level():
        derivative = forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent))).tangent
    return torch.zeros((), device=x.device) if derivative is None else derivative


def plain_gradient(function, x):
    leaf = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf, allow_unused=True, materialize_grads=True)
    return gradient


def of_a_sum(function):
    """The sum of the function's values for every entry of a first dimension."""
    return lambda stacked: vmap(function)(stacked).sum()


def vjp_of(function, x, v):
    value, pullback = vjp(function, x)
    twice = pullback(torch.tensor(2.0, device=x.device))[0] + pullback(v.sum())[0]
    return value, twice


FUSED = {
    "grad": lambda f, x, v: grad(f)(x),
    "vjp": vjp_of,
    "vmap": lambda f, x, v: vmap(f)(torch.stack([x, v, x + v])),
    "vmap of another dimension": lambda f, x, v: vmap(f, in_dims=2)(torch.stack([x, v], dim=2)),
    "vmap of vmap": lambda f, x, v: vmap(vmap(f))(torch.stack([torch.stack([x, v]), torch.stack([v, x])])),
    "vmap of grad": lambda f, x, v: vmap(grad(f))(torch.stack([x, v])),
    "grad of vmap": lambda f, x, v: grad(of_a_sum(f))(torch.stack([x, v])),
    "jacrev of vmap": lambda f, x, v: jacrev(vmap(f))(torch.stack([x, v])),
}
EAGER = {
    "jvp": lambda f, x, v: jvp(f, (x,), (v,))[1],
    "dual": dual,
    "jacfwd": lambda f, x, v: jacfwd(f)(x),
    "hessian": lambda f, x, v: hessian(f)(x),
    "grad of grad": lambda f, x, v: grad(lambda y: (grad(f)(y) * v).sum())(x),
    "a gradient of grad": lambda f, x, v: plain_gradient(lambda y: (grad(f)(y) * v).sum(), x),
    "functionalize": lambda f, x, v: functionalize(f)(x),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("transform", FUSED)
def test_fused_backends_compute_first_derivatives_and_vmap(target, name, transform):
    x, v = STUDENT.to(target.device), TANGENT.to(target.device)
    fused, auto, plain = (functions(kind, target.device)[name] for kind in (target.backend, AUTO, "eager"))
    expected = FUSED[transform](plain, x, v)
    torch.testing.assert_close(FUSED[transform](fused, x, v), expected)
    torch.testing.assert_close(FUSED[transform](auto, x, v), expected)


@pytest.mark.parametrize("name", NAMES[:-1])
@pytest.mark.parametrize("transform", EAGER)
def test_a_fused_backend_refuses_the_rest_and_auto_takes_eager(target, name, transform):
    x, v = STUDENT.to(target.device), TANGENT.to(target.device)
    fused, auto, plain = (functions(kind, target.device)[name] for kind in (target.backend, AUTO, "eager"))
    torch.testing.assert_close(EAGER[transform](auto, x, v), EAGER[transform](plain, x, v))
    with pytest.raises(RuntimeError, match=f"'{target.backend}' cannot run: only eager"):
        EAGER[transform](fused, x, v)


def test_the_derivatives_of_eager_are_right():
    """What the two tests above compare with."""
    x, v = STUDENT.double(), TANGENT.double()
    for name, function in functions("eager", "cpu").items():
        gradient = plain_gradient(function, x) if name != "mask" else torch.zeros_like(x)
        for transform in ("jvp", "dual"):
            torch.testing.assert_close(
                EAGER[transform](function, x, v), (gradient * v).sum(), check_dtype=False
            )
        torch.testing.assert_close(grad(function)(x), gradient)
    curvature = hessian(functions("eager", "cpu")["mse"])(x).reshape(x.numel(), x.numel())
    expected = 2 * MASK.double()[:, None].expand_as(x) / MASK.double().sum()
    torch.testing.assert_close(curvature, expected.flatten().diag())


def test_tangents_of_constants_do_not_keep_the_kernels_away(target):
    x, v = STUDENT.to(target.device), TANGENT.to(target.device)
    with forward_ad.dual_level():
        teacher = forward_ad.make_dual(x + 1, v)
        loss = frs.weighted_mse(x, teacher, MASK.to(target.device), backend=target.backend)
        assert forward_ad.unpack_dual(loss).tangent is None


def test_each_argument_may_have_the_dimension_of_vmap(target):
    x, y, m = (torch.stack([t, 2 * t, 0 * t]).to(target.device) for t in (STUDENT, TEACHER, MASK))
    scale = torch.tensor([1.0, 0.5, 2.0], device=target.device)

    def loss(x, y, m, scale):
        return frs.weighted_mse(x, y, m, scale=scale, normalizer=2 * scale, backend=target.backend)

    for in_dims in (
        (0, 0, 0, 0),
        (0, None, None, None),
        (None, 0, 0, None),
        (None, None, None, 0),
        (0, 0, None, 0),
    ):
        given = [t if dim == 0 else t[0] for t, dim in zip((x, y, m, scale), in_dims, strict=True)]
        one_by_one = [
            loss(*(t if dim is None else t[i] for t, dim in zip(given, in_dims, strict=True)))
            for i in range(3)
        ]
        torch.testing.assert_close(vmap(loss, in_dims)(*given), torch.stack(one_by_one))


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "odd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_gradients_of_two_arguments_have_the_bits_of_a_backward(target, dtype, layout):
    base = arguments(dtype=dtype, layout=layout, device=target.device)

    def total(feats, logits):
        students = {"student_feats": feats, "student_logits": logits}
        return 3 * frs.frs_loss(**{**base, **students}, backend=target.backend).total

    students = base["student_feats"], base["student_logits"]
    feats, logits = grad(total, argnums=(0, 1))(*students)
    leaves = [[t.detach().requires_grad_() for t in levels] for levels in students]
    total(*leaves).backward()
    expected = [leaf.grad for levels in leaves for leaf in levels]
    assert all(map(torch.equal, [*feats, *logits], expected))
    only_logits = grad(total, argnums=1)(*students)
    assert all(map(torch.equal, only_logits, logits))


def test_functional_call_of_the_module(target):
    module = frs.FRSDistillationLoss(8, 8, num_levels=4, warmup_iters=0, backend=target.backend).to(
        target.device
    )
    base = arguments(device=target.device)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    gradients = grad(lambda p: functional_call(module, p, kwargs=base).total)(parameters)
    module(**base).total.backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)


def test_vmap_of_plain_autograd(target):
    """A leaf of plain autograd inside vmap: its gradient is that of the single calls."""
    stacked = torch.stack([STUDENT, TANGENT]).to(target.device)
    for name in NAMES[:-1]:
        function = functions(target.backend, target.device)[name]
        expected = torch.stack([plain_gradient(function, x) for x in stacked])
        torch.testing.assert_close(plain_gradient(of_a_sum(function), stacked), expected)


def test_a_second_derivative_inside_one_transform_is_refused(target):
    function = functions(target.backend, target.device)["loss"]
    x = STUDENT.to(target.device)

    def penalty(y):
        (gradient,) = torch.autograd.grad(function(y), y, create_graph=True)
        return gradient.square().sum()

    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad(penalty)(x)
    leaf = torch.stack([x, x]).requires_grad_()
    (gradient,) = torch.autograd.grad(of_a_sum(function)(leaf), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_batched_gradients(target, reduction, dtype):
    x, y, m = STUDENT.to(target.device, dtype), TEACHER.to(target.device, dtype), MASK.to(target.device)
    leaf = x.clone().requires_grad_()
    loss = frs.weighted_mse(leaf, y, m, reduction=reduction, backend=target.backend)
    upstreams = torch.tensor([[2.0, 3.0], [0.0, -1.0], [1.0, 1.0]], device=target.device)
    upstreams = upstreams[:, 0] if reduction == "sum" else upstreams
    one_by_one = [torch.autograd.grad(loss, leaf, v, retain_graph=True)[0] for v in upstreams]
    (batched,) = torch.autograd.grad(loss, leaf, upstreams, is_grads_batched=True, retain_graph=True)
    assert torch.equal(batched, torch.stack(one_by_one))
    pullback = vmap(lambda v: torch.autograd.grad(loss, leaf, v, retain_graph=True)[0])
    assert torch.equal(pullback(upstreams), torch.stack(one_by_one))


def test_the_report_says_why():
    def chosen(x):
        report = frs.explain_backend(student_logits=x, teacher_logits=x)
        assert ("only eager" in report.reasons.get("native", "")) == inside_jvp
        seen.append(report.chosen)
        return x.sum()

    seen, inside_jvp = [], False
    chosen(LOGITS)
    grad(chosen)(LOGITS)
    vmap(chosen)(torch.stack([LOGITS, LOGITS]))
    assert len(set(seen)) == 1
    inside_jvp = True
    jvp(chosen, (LOGITS,), (LOGITS,))
    assert seen[-1] == "eager"


@pytest.mark.parametrize("name", ["masks", "channel_weights", "scale", "normalizer", "teacher_feats"])
def test_a_constant_that_an_outer_transform_differentiates_is_refused(target, name):
    """Its gradient would be lost: the wrapper of the inner transform does not require one."""
    given = {
        "student_feats": STUDENT, "teacher_feats": TEACHER, "masks": MASK,
        "channel_weights": torch.ones(2, 5), "scale": torch.ones(()), "normalizer": torch.ones(()),
    }  # fmt: skip
    given = {key: value.detach().to(target.device) for key, value in given.items()}
    stacked = torch.stack([given.pop(name)] * 2)

    def loss(value):
        return frs.weighted_mse(**given, **{name: value}, backend=target.backend)

    assert vmap(loss)(stacked).isfinite().all()
    with pytest.raises(ValueError, match="requires a gradient"):
        grad(lambda stacked: vmap(loss)(stacked).sum())(stacked)
