"""weighted_kl and autograd: which gradients a backward gives, how often, and to whom; and torch.func."""

import functools
import weakref

import pytest
import torch
from cases import evaluate, gradcheck, tensors
from kl_cases import WRT, arguments
from torch.autograd import forward_ad
from torch.func import functionalize, grad, hessian, jacfwd, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import frs_kernels as frs
from frs_kernels import dispatch

pytestmark = pytest.mark.usefixtures("has_kl")
OVER = ("channels", "locations")
SMALL = ((5, 7), (3, 4))


def leaves_of(base: dict) -> dict:
    """The arguments with students that require gradients."""
    return {n: [t.detach().clone().requires_grad_(n in WRT) for t in levels] for n, levels in base.items()}


def constants(base: dict) -> dict:
    return {name: levels for name, levels in base.items() if name not in WRT}


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("over", OVER)
def test_gradcheck(target, over, reduction):
    common = {"sizes": ((2, 3), (1, 2)), "dtype": torch.float64, "device": target.device}
    base = arguments(4, over=over, **common)
    options = {"groups": 2} if over == "channels" else {"over": over}
    options |= {"reduction": reduction, "temperature": 1.5, "scale": 0.7, "backend": target.backend}
    students = [s.requires_grad_() for s in base["student"]]
    gradcheck(
        lambda *levels: frs.weighted_kl(levels, base["teacher"], base["weight"], **options),
        students,
        check_batched_grad=True,
    )


def test_partial_gradients(target):
    base = arguments(device=target.device)
    _, expected = evaluate(frs.weighted_kl, base, WRT, backend=target.backend)
    for wanted in ({0, 2, 3}, {1}):
        students = [t.clone().requires_grad_(level in wanted) for level, t in enumerate(base["student"])]
        frs.weighted_kl(students, **constants(base), backend=target.backend).backward()
        for level, student in enumerate(students):
            assert torch.equal(student.grad, expected[level]) if level in wanted else student.grad is None


def test_the_teacher_gets_no_gradient(target):
    base = arguments(device=target.device)
    for name in ("student", "teacher"):
        base[name] = [t.requires_grad_() for t in base[name]]
    frs.weighted_kl(**base, backend=target.backend).backward()
    assert all(t.grad is None for t in base["teacher"]) and all(t.grad is not None for t in base["student"])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
def test_no_gradient_is_computed_where_none_is_recorded(target, mode):
    base = leaves_of(arguments(device=target.device))
    with Calls() as calls:
        expected = frs.weighted_kl(**base, backend=target.backend)
        with mode():
            loss = frs.weighted_kl(**base, backend=target.backend)
    assert torch.equal(loss, expected) and expected.requires_grad and not loss.requires_grad
    assert calls.gradients == [len(base["student"]), 0]


def test_constants_made_in_inference_mode(target):
    base = leaves_of(arguments(device=target.device))
    with torch.inference_mode():
        made = {n: [t.clone() for t in levels] for n, levels in constants(base).items()}
        scale = torch.tensor(0.5, device=target.device)
    for backend in (target.backend, "eager"):
        options = {"scale": scale, "normalizer": 2 * scale, "backend": backend}
        frs.weighted_kl(base["student"], **made, **options).backward()
    assert all(t.grad.isfinite().all() for t in base["student"])


def test_under_autocast(target):
    base = arguments(dtype=torch.bfloat16, device=target.device)
    (outside,), grads = evaluate(frs.weighted_kl, base, WRT, backend=target.backend)
    with torch.autocast(target.device, dtype=torch.bfloat16):
        (inside,), grads_inside = evaluate(frs.weighted_kl, base, WRT, backend=target.backend)
    assert torch.equal(inside, outside) and inside.dtype == torch.float32
    assert all(map(torch.equal, grads_inside, grads))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_second_backward_with_a_retained_graph(target, dtype):
    base = leaves_of(arguments(dtype=dtype, device=target.device))
    leaf = base["student"][0]
    loss = frs.weighted_kl(**base, backend=target.backend)
    (3 * loss).backward(retain_graph=True)
    first = leaf.grad.clone()
    loss.backward()
    torch.testing.assert_close(leaf.grad, first * 4 / 3)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_double_backward_is_refused(target):
    base = leaves_of(arguments(device=target.device))
    loss = frs.weighted_kl(**base, backend=target.backend)
    (gradient,) = torch.autograd.grad(loss, base["student"][0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_gradients_are_handed_over_and_nothing_is_held(target, factor):
    """The operator's own memory becomes the gradient; the loss that lives on holds none of it."""
    base = leaves_of(arguments(layout="channels_last", device=target.device))
    loss = frs.weighted_kl(**base, backend=target.backend)
    stored = list(loss.grad_fn.saved_tensors[1:])
    memory, references = [t.data_ptr() for t in stored], [weakref.ref(t.untyped_storage()) for t in stored]
    del stored
    (factor * loss).backward()
    assert [leaf.grad.data_ptr() for leaf in base["student"]] == memory
    assert base["student"][0].grad.is_contiguous(memory_format=torch.channels_last)
    for leaf in base["student"]:
        leaf.grad = None
    assert loss.isfinite() and all(reference() is None for reference in references)


def test_losses_can_be_added_to_in_place(target):
    for wanted in (True, False):
        base = arguments(device=target.device)
        base["student"] = [t.requires_grad_(wanted) for t in base["student"]]
        total = frs.weighted_kl(**base, backend=target.backend)
        other = torch.ones((), device=target.device, requires_grad=True)
        total += other
        total.backward()
        assert other.grad == 1 and all((t.grad is not None) == wanted for t in base["student"])


@pytest.mark.parametrize("saved, calls", [(False, 2), (True, 1)])
def test_under_activation_checkpointing(target, saved, calls):
    """A policy of selective checkpointing can name the operator, and save its results."""
    base = leaves_of(arguments(device=target.device))
    operator = dispatch.load(target.backend).namespace().kl.default

    def loss(*levels):
        return frs.weighted_kl([1.0 * t for t in levels], **constants(base), backend=target.backend)

    def policy(context, called, *args, **kwargs):
        keep = saved and called == operator
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    expected = torch.autograd.grad(loss(*base["student"]), base["student"])
    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    with Calls() as counted:
        value = checkpoint(loss, *base["student"], use_reentrant=False, context_fn=contexts)
        actual = torch.autograd.grad(value, base["student"])
    assert all(map(torch.equal, actual, expected)) and len(counted.gradients) == calls


class Calls(TorchDispatchMode):
    """The number of gradients that each call of the operator kl returns."""

    def __init__(self):
        super().__init__()
        self.gradients: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        if func._schema.name.endswith("::kl"):
            self.gradients.append(len(results[2]))
        return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_batched_gradients(target, reduction, dtype):
    base = leaves_of(arguments(sizes=SMALL, dtype=dtype, device=target.device))
    loss = frs.weighted_kl(**base, reduction=reduction, backend=target.backend)
    upstreams = torch.tensor([[2.0, 3.0], [0.0, -1.0], [1.0, 1.0]], device=target.device)
    upstreams = upstreams[:, 0] if reduction == "sum" else upstreams

    def pullback(upstream, **options):
        return torch.autograd.grad(loss, base["student"][0], upstream, retain_graph=True, **options)[0]

    expected = torch.stack([pullback(upstream) for upstream in upstreams])
    assert torch.equal(pullback(upstreams, is_grads_batched=True), expected)
    assert torch.equal(vmap(pullback)(upstreams), expected)


def dual(function, x, tangent):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent))).tangent


TRANSFORMS = {
    "grad": lambda f, x, v: grad(f)(x),
    "vjp": lambda f, x, v: vjp(f, x)[1](v.sum())[0],
    "vmap": lambda f, x, v: vmap(f)(torch.stack([x, v])),
    "vmap of grad": lambda f, x, v: vmap(grad(f))(torch.stack([x, v])),
    "jvp": lambda f, x, v: jvp(f, (x,), (v,))[1],
    "dual": dual,
    "jacfwd": lambda f, x, v: jacfwd(f)(x),
    "hessian": lambda f, x, v: hessian(f)(x),
    "functionalize": lambda f, x, v: functionalize(f)(x),
}


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_auto_takes_eager_inside_transforms_and_a_fused_backend_refuses(target, transform, over):
    (x,), (y,), (v,) = (tensors(4, sizes=((2, 3),), seed=seed, device=target.device) for seed in range(3))
    weight = torch.rand(2, *((4,) if over == "locations" else (2, 3)), device=target.device)

    def of(backend):
        return lambda s: frs.weighted_kl(s, y, weight, over=over, temperature=2.0, backend=backend)

    run = TRANSFORMS[transform]
    torch.testing.assert_close(run(of("auto"), x, v), run(of("eager"), x, v), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match=f"'{target.backend}' cannot run: only eager"):
        run(of(target.backend), x, v)
