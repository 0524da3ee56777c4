"""The reference against the formulas of the paper, of the published code and of Ultralytics."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import random_masks, tensors

import frs_kernels as frs
from frs_kernels import reference

BACKENDS = [
    pytest.param(
        name, marks=pytest.mark.skipif(name not in frs.available_backends(), reason=f"{name} not available")
    )
    for name in ("eager", "native")
]


def inputs(dtype=torch.float64):
    return {
        "student_feats": tensors(8, dtype=dtype, seed=1),
        "teacher_feats": tensors(8, dtype=dtype, seed=2),
        "teacher_logits": tensors(12, dtype=dtype, seed=3, spread=3),
        "student_logits": tensors(12, dtype=dtype, seed=4, spread=3),
    }


def official(student_feats, teacher_feats, student_logits, teacher_logits):
    """The published training code in other words.

    The mask is the largest probability over the channels. The imitation term is the squared error times the
    mask, over the sum of the mask; the head term is the cross-entropy of the probabilities, weighted
    likewise.
    """
    feature = head = 0.0
    for x, y, t, s in zip(student_feats, teacher_feats, teacher_logits, student_logits, strict=True):
        probabilities = t.sigmoid()
        mask = probabilities.max(dim=1, keepdim=True).values
        feature = feature + (((x - y) ** 2) * mask).sum() / mask.sum()
        entropy = F.binary_cross_entropy(s.sigmoid(), probabilities, reduction="none")
        head = head + (entropy * mask).sum() / mask.sum()
    return feature, head


def masked_squared_error(student, teacher, logits):
    """Ultralytics' loss of one level in other words: squared error times mask, over the mask's sum.

    student, teacher [B, C, L]; logits [B, nc, L].
    """
    mask = logits.sigmoid().amax(dim=1, keepdim=True)
    return ((student - teacher) ** 2 * mask).sum() / (mask.sum() * student.shape[1] + 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_agrees_with_the_official_code(backend, dtype):
    arguments = inputs(dtype)
    leaves = arguments["student_feats"] + arguments["student_logits"]
    [leaf.requires_grad_() for leaf in leaves]
    feature, head = official(**arguments)
    expected = torch.autograd.grad(0.005 * feature + 0.02 * head, leaves)
    loss = frs.frs_loss(**arguments, feat_weight=0.005, head_weight=0.02, backend=backend)
    torch.testing.assert_close(loss.feature, 0.005 * feature)
    torch.testing.assert_close(loss.head, 0.02 * head)
    torch.testing.assert_close(torch.autograd.grad(loss.total, leaves), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_agrees_with_ultralytics(backend, dtype):
    arguments = inputs(dtype)
    lengths = [t[0, 0].numel() for t in arguments["teacher_logits"]]
    flat = torch.cat([t.flatten(2) for t in arguments["teacher_logits"]], dim=2)  # [B, nc, sum L]
    logits = flat.split(lengths, dim=2)  # not contiguous
    students = [x.requires_grad_() for x in arguments["student_feats"]]
    for x, y, t in zip(students, arguments["teacher_feats"], logits, strict=True):
        expected = masked_squared_error(x.flatten(2), y.flatten(2), t)
        actual = frs.frs_loss(x, y, teacher_logits=t, normalizer="mask_channels", backend=backend).feature
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(torch.autograd.grad(actual, x), torch.autograd.grad(expected, x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_saturated_logits_keep_their_gradient_where_the_official_code_loses_it(backend):
    student = torch.full((1, 1, 1, 1), -200.0, requires_grad=True)
    teacher = torch.full((1, 1, 1, 1), 5.0)
    mask = torch.ones(1, 1, 1)
    clamped = F.binary_cross_entropy(student.sigmoid(), teacher.sigmoid(), reduction="sum")
    exact = frs.weighted_bce(student, teacher, mask, backend=backend)
    assert clamped < 100
    torch.testing.assert_close(exact, 200 * teacher.sigmoid().squeeze())
    (grad,) = torch.autograd.grad(exact, student)
    torch.testing.assert_close(grad, -teacher.sigmoid())


def test_mask_is_sigmoid_of_the_maximum():
    logits = torch.tensor([[-1.0, 2.0], [3.0, 0.5]]).T[None, :, None, :]  # [1, 2, 1, 2]
    expected = torch.tensor([3.0, 2.0]).flip(0).sigmoid()
    assert reference.frs_mask(logits).flatten().tolist() == pytest.approx(expected.tolist())


def test_worked_example():
    """Two locations, S = (1, 1/3); x - y = (3, 1) and (0, 6): (10 + 36/3) / (4/3) = 16.5."""
    student = torch.tensor([[[[3.0, 0.0]], [[1.0, 6.0]]]])
    mask = torch.tensor([[[1.0, 1 / 3]]])
    loss = reference.weighted_mse(student, torch.zeros_like(student), mask)
    assert loss.item() == pytest.approx(16.5)
    assert reference.weighted_mse(student, student, mask).item() == 0
    for normalizer, z in (("mask_channels", 8 / 3), ("batch", 1), ("numel", 4), (11.0, 11)):
        loss = reference.weighted_mse(student, torch.zeros_like(student), mask, normalizer=normalizer)
        assert loss.item() == pytest.approx(22 / z)


def test_a_normalizer_over_all_levels_in_numbers():
    """Masks of sums 1 and 0.25: errors of 2 * 1 and 10 * 0.25 are divided by 1.25 on both levels."""
    students = [torch.tensor(2.0).sqrt().reshape(1, 1, 1, 1), torch.tensor(10.0).sqrt().reshape(1, 1, 1)]
    teachers = [torch.zeros_like(x) for x in students]
    masks = [torch.ones(1, 1, 1), torch.full((1, 1), 0.25)]
    loss = reference.weighted_mse(students, teachers, masks, normalizer="mask_all_levels")
    assert loss.item() == pytest.approx((2 + 2.5) / 1.25)
    scores = [torch.zeros_like(x) for x in students]
    head = reference.weighted_bce(scores, scores, masks, normalizer="mask_all_levels")
    assert head.item() == pytest.approx(math.log(2))


def test_focal_form_in_numbers():
    student, teacher = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0)
    difference = torch.tensor(2.0).sigmoid() - 0.5
    mask = torch.ones(1, 1, 1)
    loss = reference.weighted_bce(student, teacher, mask, beta=2.0)
    torch.testing.assert_close(loss, difference**2 * torch.log(torch.tensor(2.0)))


def test_masks_of_the_reference_are_constants():
    masks = [w.requires_grad_() for w in random_masks()]
    student = [x.requires_grad_() for x in tensors(4, seed=1)]
    reference.weighted_mse(student, tensors(4, seed=2), masks).backward()
    assert all(w.grad is None for w in masks) and all(x.grad is not None for x in student)
