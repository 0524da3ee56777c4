"""frs_loss and autograd: which gradients a backward gives, how often, and to whom."""

import pytest
import torch
from cases import SIZES, evaluate
from loss_cases import WRT, arguments
from torch.utils.checkpoint import checkpoint

import frs_kernels as frs


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
