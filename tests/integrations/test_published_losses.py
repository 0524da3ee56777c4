"""The recipes of examples/other_losses.py beside the formulas of the papers, location by location."""

import other_losses as recipes
import pytest
import torch
import torch.nn.functional as F

SIZES = [(8, 10), (4, 5), (2, 3)]
IMAGE = (64, 80)
BOXES = [torch.tensor([[4.0, 8, 36, 40], [50, 20, 78, 60]]), torch.tensor([[16.0, 0, 48, 30]])]


def levels(seed: int, channels: int = 12) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, *size, generator=random, dtype=torch.float64) for size in SIZES]


@pytest.fixture
def student():
    return [x.requires_grad_() for x in levels(0)]


@pytest.fixture
def teacher():
    return levels(1)


@pytest.fixture
def foreground():
    return [m.double() for m in recipes.box_maps(BOXES, SIZES, IMAGE)]


def same(ours, theirs, student) -> None:
    """Equal values, and equal gradients for the student."""
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(loss, student, retain_graph=True) for loss in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_box_maps_mark_every_location_that_a_box_touches(foreground):
    for level, (height, width) in enumerate(SIZES):
        for image, boxes in enumerate(BOXES):
            for y in range(height):
                for x in range(width):
                    left, right = x * IMAGE[1] / width, (x + 1) * IMAGE[1] / width
                    top, bottom = y * IMAGE[0] / height, (y + 1) * IMAGE[0] / height
                    touched = any(
                        x1 < right and x2 > left and y1 < bottom and y2 > top
                        for x1, y1, x2, y2 in boxes.tolist()
                    )
                    assert foreground[level][image, y, x] == touched


def test_whole_map_l2(student, teacher):
    theirs = sum(F.mse_loss(x, y) for x, y in zip(student, teacher, strict=True))
    same(recipes.whole_map_l2(student, teacher), theirs, student)


def test_fgfi(student, teacher, foreground):
    """L = 1/(2 N_p) sum_ij I_ij sum_c (f_adap(s)_ijc - t_ijc)^2, N_p = sum_ij I_ij (Wang et al., eq. 3)."""
    theirs = 0.0
    for x, y, mask in zip(student, teacher, foreground, strict=True):
        positive = mask.sum()
        error = ((x - y) ** 2).sum(dim=1)
        theirs = theirs + (mask * error).sum() / (2 * positive)
    same(recipes.fgfi(student, teacher, foreground), theirs, student)


def test_defeat(student, teacher, foreground):
    """alpha_obj/(2 N_obj) sum M (..)^2 + alpha_bg/(2 N_bg) sum (1 - M) (..)^2 (Guo et al., eq. 3)."""
    theirs = 0.0
    for x, y, mask in zip(student, teacher, foreground, strict=True):
        error = ((x - y) ** 2).sum(dim=1)
        theirs = theirs + 0.5 / (2 * mask.sum()) * (mask * error).sum()
        theirs = theirs + 0.05 / (2 * (1 - mask).sum()) * ((1 - mask) * error).sum()
    same(recipes.defeat(student, teacher, foreground, 0.5, 0.05), theirs, student)


def test_fgd(student, teacher, foreground):
    """alpha sum M S A^S A^C (..)^2 + beta sum (1-M) S A^S A^C (..)^2 over k, i, j (Yang et al., eq. 4-8)."""
    alpha, beta, temperature = 1e-3, 5e-4, 0.5
    scale_fg = [mask / 7.0 for mask in foreground]  # S in a box: 1 / (its height x width), here one for all
    scale_bg = [(1 - mask) / (1 - mask).sum((1, 2), keepdim=True).clamp(min=1) for mask in foreground]
    theirs = 0.0
    for x, y, fg, bg in zip(student, teacher, scale_fg, scale_bg, strict=True):
        batch, channels, height, width = y.shape
        for image in range(batch):
            size = y[image].abs()
            over_space = size.sum(0) / channels
            over_channels = size.sum((1, 2)) / (height * width)
            a_space = (
                height * width * torch.softmax(over_space.flatten() / temperature, 0).view(height, width)
            )
            a_channels = channels * torch.softmax(over_channels / temperature, 0)
            error = (x[image] - y[image]) ** 2 * a_channels[:, None, None] * a_space
            theirs = theirs + (alpha * (fg[image] * error).sum() + beta * (bg[image] * error).sum()) / batch
    same(recipes.fgd(student, teacher, scale_fg, scale_bg, alpha, beta), theirs, student)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_quality_focal_prediction_mimicking(student, teacher, beta):
    """|sigma - y|^beta ((1 - y) log(1 - sigma) + y log sigma), negated, y the teacher's probability."""
    theirs = 0.0
    for s, t in zip(student, teacher, strict=True):
        sigma, y = s.sigmoid(), t.sigmoid()
        entropy = -((1 - y) * (1 - sigma).log() + y * sigma.log())
        theirs = theirs + ((sigma - y).abs() ** beta * entropy).sum() / 11.0
    same(recipes.quality_focal(student, teacher, beta, divisor=11.0), theirs, student)


def test_a_picture_without_objects_costs_nothing(student, teacher):
    empty = [torch.zeros_like(x[:, 0]) for x in student]
    loss = recipes.fgfi(student, teacher, empty)
    loss.backward()
    assert loss == 0
    assert all(not x.grad.any() for x in student)
