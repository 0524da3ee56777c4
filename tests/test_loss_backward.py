"""frs_loss and autograd: which gradients a backward gives, how often, and to whom."""

import functools
import weakref
from collections import Counter

import pytest
import torch
from cases import SIZES, compare, evaluate, gradcheck, random_masks, tensors, term
from loss_cases import WRT, arguments
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import frs_kernels as frs
from frs_kernels import dispatch


def test_partial_gradients(target):
    base = arguments(device=target.device)
    for options in ({"normalizer": "numel"}, {}):
        options["backend"] = target.backend
        _, expected = evaluate(frs.frs_loss, base, WRT, **options)
        halves = expected[: len(SIZES)], expected[len(SIZES) :]
        for name, part in zip(WRT, halves, strict=True):
            _, grads = evaluate(frs.frs_loss, base, (name,), **options)
            torch.testing.assert_close(grads, part)
    leaf = base["student_logits"][1].clone().requires_grad_()
    base["student_logits"][1] = leaf
    frs.frs_loss(**base, backend=target.backend).total.backward()
    torch.testing.assert_close(leaf.grad, expected[len(SIZES) + 1])


@pytest.mark.parametrize("wanted", [True, False], ids=["gradients", "no gradients"])
def test_losses_can_be_added_to_in_place(target, wanted):
    base = arguments(device=target.device)
    leaves = [t.requires_grad_(wanted) for t in base["student_feats"]]
    loss = frs.frs_loss(**base, backend=target.backend)
    expected = [2 * loss.total.item(), loss.feature.item(), loss.head.item()]
    other = torch.tensor(loss.total.item(), device=target.device, requires_grad=True)
    total = loss.total
    total += other
    assert [total.item(), loss.feature.item(), loss.head.item()] == expected
    total.backward()
    assert other.grad == 1
    if wanted:
        plain = [t.detach().requires_grad_() for t in leaves]
        frs.frs_loss(**{**base, "student_feats": plain}, backend=target.backend).total.backward()
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(leaves, plain, strict=True))


def test_each_term_can_be_differentiated_alone(target):
    base = {
        name: [t.requires_grad_() for t in levels] for name, levels in arguments(device=target.device).items()
    }
    students = base["student_feats"] + base["student_logits"]
    half = len(SIZES)
    _, expected = evaluate(frs.frs_loss, base, WRT, backend=target.backend)
    loss = frs.frs_loss(**base, backend=target.backend)
    feats = torch.autograd.grad(loss.feature, students, retain_graph=True, allow_unused=True)
    logits = torch.autograd.grad(2 * loss.head, students, retain_graph=True, allow_unused=True)
    both = torch.autograd.grad(loss.feature + 2 * loss.head, students)
    assert feats[half:] == logits[:half] == (None,) * half
    torch.testing.assert_close(list(feats[:half]), expected[:half])
    torch.testing.assert_close(list(logits[half:]), [2 * g for g in expected[half:]])
    torch.testing.assert_close(both, feats[:half] + logits[half:])
    assert all(t.grad is None for levels in base.values() for t in levels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_second_backward_with_a_retained_graph(target, dtype):
    base = arguments(dtype=dtype, device=target.device)
    _, expected = evaluate(frs.frs_loss, base, ("student_logits",), upstream=3, backend=target.backend)
    leaf = base["student_logits"][0].requires_grad_()
    loss = frs.frs_loss(**base, backend=target.backend).total
    (3 * loss).backward(retain_graph=True)
    first = leaf.grad.clone()
    assert torch.equal(first, expected[0])
    loss.backward()
    torch.testing.assert_close(leaf.grad, first * 4 / 3)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_double_backward_is_refused(target):
    base = arguments(device=target.device)
    leaf = base["student_logits"][0].requires_grad_()
    loss = frs.frs_loss(**base, backend=target.backend).total
    (grad,) = torch.autograd.grad(loss, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_the_teacher_gets_no_gradient(target):
    base = arguments(device=target.device)
    for name in ("teacher_feats", "teacher_logits", *WRT):
        base[name] = [t.requires_grad_() for t in base[name]]
    frs.frs_loss(**base, backend=target.backend).total.backward()
    assert all(t.grad is None for t in base["teacher_feats"] + base["teacher_logits"])
    assert all(t.grad is not None for name in WRT for t in base[name])


def test_gradients_keep_the_memory_format(target):
    base = arguments(layout="channels_last", device=target.device)
    _, grads = evaluate(frs.frs_loss, base, WRT, backend=target.backend)
    assert grads[0].is_contiguous(memory_format=torch.channels_last)


def test_under_activation_checkpointing(target):
    base = arguments(device=target.device)
    leaf = base["student_logits"][0].requires_grad_()

    def loss(logits):
        levels = [logits * 1.0, *base["student_logits"][1:]]
        return frs.frs_loss(**{**base, "student_logits": levels}, backend=target.backend).total

    loss(leaf).backward()
    expected, leaf.grad = leaf.grad, None
    checkpoint(loss, leaf, use_reentrant=False).backward()
    torch.testing.assert_close(leaf.grad, expected)


def leaves_of(base):
    """The arguments with students that require gradients."""
    return {n: [t.detach().clone().requires_grad_(n in WRT) for t in levels] for n, levels in base.items()}


def grads_of(base, backward, backend):
    """The students' gradients after ``backward(loss)``."""
    base = leaves_of(base)
    backward(frs.frs_loss(**base, feat_weight=0.3, backend=backend))
    return [leaf.grad for name in WRT for leaf in base[name]]


def one_after_the_other(*names, factor=1.0, retain=False):
    def backward(loss):
        for name in names:
            (factor * getattr(loss, name)).backward(retain_graph=retain)

    return backward


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("names", [("feature", "head"), ("head", "feature")], ids="-".join)
def test_the_terms_one_after_the_other(target, names, dtype):
    base = arguments(dtype=dtype, device=target.device)
    expected = grads_of(base, one_after_the_other("total", factor=4.0), target.backend)
    for retain in (False, True):
        actual = grads_of(base, one_after_the_other(*names, factor=4.0, retain=retain), target.backend)
        assert all(map(torch.equal, actual, expected))
    all_three = one_after_the_other(*names, "total", factor=2.0, retain=True)
    torch.testing.assert_close(grads_of(base, all_three, target.backend), expected)


def test_the_total_is_the_sum_of_both_terms_whoever_adds_them(target):
    """The kernel does where at most one term has gradients, else autograd."""
    base = arguments(device=target.device)
    for wrt in ((), WRT[:1], WRT[1:], WRT):
        wanted = {n: [t.detach().requires_grad_(n in wrt) for t in levels] for n, levels in base.items()}
        loss = frs.frs_loss(**wanted, backend=target.backend)
        assert torch.equal(loss.total, loss.feature + loss.head)


def test_a_sum_of_all_three(target):
    for dtype in (torch.float32, torch.float16):
        base = arguments(dtype=dtype, device=target.device)
        actual, expected = (
            grads_of(base, lambda loss: (2 * loss.feature + 3 * loss.head + loss.total).backward(), backend)
            for backend in (target.backend, "eager")
        )
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["feature", "head"])
def test_the_total_after_one_of_its_terms_is_an_error(target, name):
    for backend in (target.backend, "eager"):
        loss = frs.frs_loss(**leaves_of(arguments(device=target.device)), backend=backend)
        getattr(loss, name).backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.total.backward()


def test_a_term_without_gradients_is_a_constant(target):
    base = leaves_of(arguments(device=target.device))
    for name, constant in (("student_logits", "head"), ("student_feats", "feature")):
        frozen = {**base, name: [t.detach() for t in base[name]]}
        loss = frs.frs_loss(**frozen, backend=target.backend)
        assert not getattr(loss, constant).requires_grad and loss.total.requires_grad
        assert not loss.feature_levels.requires_grad and not loss.head_levels.requires_grad


def test_gradients_are_handed_over_and_nothing_is_held(target):
    """The operator's own memory becomes the gradient; a result that lives on holds none of it."""
    for backward in (one_after_the_other("feature", "head"), one_after_the_other("total", factor=2.0)):
        base = leaves_of(arguments(device=target.device))
        loss = frs.frs_loss(**base, backend=target.backend)
        stored = [t for node in (loss.feature, loss.head) for t in node.grad_fn.saved_tensors[1:]]
        memory = [t.data_ptr() for t in stored]
        references = [weakref.ref(t.untyped_storage()) for t in stored]
        del stored
        backward(loss)
        leaves = [leaf for name in WRT for leaf in base[name]]
        assert [leaf.grad.data_ptr() for leaf in leaves] == memory
        for leaf in leaves:
            leaf.grad = None
        for node in (loss.feature.grad_fn, loss.head.grad_fn):
            with pytest.raises(RuntimeError, match="freed"):
                node.saved_tensors  # noqa: B018
        assert loss.total.isfinite() and all(reference() is None for reference in references)


@pytest.mark.parametrize("beta", [0.0, 1.5])
def test_vector_jacobian_products_of_every_image(target, beta):
    generator = torch.Generator().manual_seed(7)
    upstream = torch.randn(3, generator=generator, dtype=torch.float64).to(target.device)
    for names, function, options in (
        (("student_feats", "teacher_feats"), frs.weighted_mse, {}),
        (("student_logits", "teacher_logits"), frs.weighted_bce, {"beta": beta}),
    ):
        for dtype in (torch.float32, torch.float16, torch.float64):
            base = term(names, dtype=dtype, batch=3, device=target.device)
            accumulation = torch.promote_types(dtype, torch.float32)
            compare(
                function, target, base, names[:1], upstream.to(accumulation), reduction="none",
                normalizer="mask_channels", scale=0.7, **options,
            )  # fmt: skip


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_gradcheck(target, reduction):
    common = {"sizes": ((2, 3), (1, 2)), "dtype": torch.float64, "device": target.device}
    masks = random_masks(**common)
    (x, z), (y, w) = (tensors(3, seed=seed, **common) for seed in (1, 2))
    options = {"reduction": reduction, "backend": target.backend}
    students = x.requires_grad_(), z.requires_grad_()
    gradcheck(
        lambda *levels: frs.weighted_mse(levels, [y, w], masks, **options), students, check_batched_grad=True
    )
    gradcheck(lambda *levels: frs.weighted_bce(levels, [y, w], masks, beta=2.0, **options), students)


@pytest.mark.parametrize("backend", ["eager", None])
def test_constants_made_in_inference_mode(target, backend):
    backend = backend or target.backend
    base = arguments(device=target.device)
    with torch.inference_mode():
        frozen = {name: [t.clone() for t in base[name]] for name in ("teacher_feats", "teacher_logits")}
        masks = random_masks(device=target.device)
        scale = torch.tensor(0.5, device=target.device)
        channel_weights = torch.rand(2, 8, device=target.device)
    assert masks[0].is_inference() and scale.is_inference()
    feats = base["student_feats"][0].requires_grad_(), frozen["teacher_feats"][0]
    logits = base["student_logits"][0].requires_grad_(), frozen["teacher_logits"][0]
    options = {"scale": scale, "normalizer": 2 * scale, "backend": backend}
    frs.frs_loss(**{**base, **frozen}, backend=backend).total.backward()
    frs.weighted_mse(*feats, masks[0], channel_weights=channel_weights, **options).backward()
    frs.weighted_mse(*feats, mask_sets=[masks[0], masks[0]], **options).backward()
    frs.weighted_bce(*logits, masks[0], beta=2.0, **options).backward()
    assert feats[0].grad.isfinite().all() and logits[0].grad.isfinite().all()


def test_selective_checkpointing_saves_one_operator_and_repeats_the_other(target):
    operators = dispatch.load(target.backend).namespace()
    base = leaves_of(arguments(device=target.device))
    masks = random_masks(device=target.device)

    def policy(context, operator, *args, **kwargs):
        saved = operator == operators.imitation.default
        return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE

    def loss(feats, logits):
        teachers = base["teacher_feats"], base["teacher_logits"]
        mse = frs.weighted_mse(feats, teachers[0], masks, backend=target.backend)
        return mse + frs.weighted_bce(logits, teachers[1], masks, backend=target.backend)

    students = base["student_feats"], base["student_logits"]
    expected = torch.autograd.grad(loss(*students), [*students[0], *students[1]])
    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    with Calls() as calls:
        value = checkpoint(loss, *students, use_reentrant=False, context_fn=contexts)
        actual = torch.autograd.grad(value, [*students[0], *students[1]])
    assert all(map(torch.equal, actual, expected))
    assert (calls[operators.imitation.default], calls[operators.head.default]) == (1, 2)


def test_checkpointing_holds_no_gradients_in_between(target):
    base = leaves_of(arguments(device=target.device))
    held = []

    def loss(feats):
        operators = dispatch.load(target.backend).namespace()
        with Kept(operators.loss.default) as kept:
            total = frs.frs_loss(**{**base, "student_feats": feats}, backend=target.backend).total
        held.append(kept.references)
        return total

    plain = loss(base["student_feats"])
    assert all(reference() is not None for reference in held[0])
    value = checkpoint(loss, base["student_feats"], use_reentrant=False)
    assert all(reference() is None for reference in held[1]) and len(held[1]) == 2 * len(SIZES)
    students = [*base["student_feats"], *base["student_logits"]]
    assert all(map(torch.equal, *(torch.autograd.grad(loss, students) for loss in (value, plain))))


class Kept(TorchDispatchMode):
    """Weak references to the memory of the gradients that an operator returns."""

    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        if func == self.operator:
            self.references = [weakref.ref(t.untyped_storage()) for grads in results[-2:] for t in grads]
        return results


class Calls(TorchDispatchMode):
    """Counts the calls of every operator."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __getitem__(self, operator):
        return self.counts[operator]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func] += 1
        return func(*args, **(kwargs or {}))
