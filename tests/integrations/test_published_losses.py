"""The rows of features in the table of other losses (published_losses.py), and the whole table."""

import re
from pathlib import Path

import other_losses as recipes
import pytest
import softmax_losses
import torch
import torch.nn.functional as F
from published_losses import CALLS, SIZES, levels, pairs, row, same
from torch import Tensor

IMAGE = (64, 80)
BOXES = [torch.tensor([[4.0, 8, 36, 40], [50, 20, 78, 60]]), torch.tensor([[16.0, 0, 48, 30]])]


@pytest.fixture
def student() -> list[Tensor]:
    return [x.requires_grad_() for x in levels(0)]


@pytest.fixture
def teacher() -> list[Tensor]:
    return levels(1)


@pytest.fixture
def foreground() -> list[Tensor]:
    return [m.double() for m in recipes.box_masks(BOXES, SIZES, IMAGE)]


def test_every_row_of_the_table_that_has_a_call_is_tested():
    assert len(CALLS) == 18
    files = Path(__file__).parent.glob("test_published_*.py")
    tested = [re.findall(r'^@row\("(.+)"\)$', file.read_text(), flags=re.MULTILINE) for file in files]
    assert sorted(CALLS) == sorted(sum(tested, []))
    starred = {method for method in CALLS if method.endswith("*")}
    examples = vars(recipes) | vars(softmax_losses)
    public = {name for name, value in examples.items() if callable(value) and name[0].islower()}
    helpers = {"box_masks", "fgd_attention", "pgd_attention", "target_and_rest", "main"}
    assert len(starred) == len(public - helpers)


def test_box_masks_mark_every_location_that_a_box_touches(foreground):
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


@row("FRS (Du 2021)")
def test_frs(call, student, teacher):
    """Both errors times the largest class probability, divided by its sum; see also test_official.py."""
    logits, teacher_logits = [s.requires_grad_() for s in levels(2, 6)], levels(3, 6)
    theirs = 0.0
    for x, y, s, t in pairs(student, teacher, logits, teacher_logits):
        q, mask = t.sigmoid(), t.sigmoid().amax(dim=1, keepdim=True)
        error = ((x - y) ** 2 * mask).sum()
        entropy = (F.binary_cross_entropy(s.sigmoid(), q, reduction="none") * mask).sum()
        theirs = theirs + (error + entropy) / mask.sum()
    ours = sum(
        call(x=x, y=y, s=s, T=t).total for x, y, s, t in pairs(student, teacher, logits, teacher_logits)
    )
    same(ours, theirs, student + logits)


@row("Ultralytics `loss_sl2`")
def test_ultralytics(call, student, teacher):
    """A mean over channels, then a weighted mean over locations; test_ultralytics.py runs the package."""
    masks = [t.sigmoid().amax(1) for t in levels(2)]
    theirs = 0.0
    for x, y, mask in pairs(student, teacher, masks):
        over_channels = (x - y).square().mean(dim=1).flatten()
        theirs = theirs + over_channels @ mask.flatten() / mask.sum()
    ours = sum(call(x=x, y=y, mask=mask) for x, y, mask in pairs(student, teacher, masks))
    same(ours, theirs, student, rtol=1e-9)  # our normalizer adds 1e-9 to the sum


@row("FitNets, whole-map L2 *")
def test_whole_map_l2(call, student, teacher):
    theirs = sum(F.mse_loss(x, y) for x, y in pairs(student, teacher))
    ones = [torch.ones_like(x[:, 0]) for x in student]
    same(sum(call(x=x, y=y, ones=one) for x, y, one in pairs(student, teacher, ones)), theirs, student)
    same(recipes.whole_map_l2(student, teacher), theirs, student)


@row("FGFI (Wang 2019) *")
def test_fgfi(call, student, teacher, foreground):
    """L = 1/(2 N_p) sum_ij I_ij sum_c (f_adap(s)_ijc - t_ijc)^2, N_p = sum_ij I_ij (eq. 3; so the code)."""
    theirs = 0.0
    for x, y, mask in pairs(student, teacher, foreground):
        error = ((x - y) ** 2).sum(dim=1)
        theirs = theirs + (mask * error).sum() / (2 * mask.sum())
    ours = sum(call(x=x, y=y, near_objects=mask) for x, y, mask in pairs(student, teacher, foreground))
    same(ours, theirs, student)
    same(recipes.fgfi(student, teacher, foreground), theirs, student)


@row("DeFeat (Guo 2021), paper *")
def test_defeat_of_the_paper(call, student, teacher, foreground):
    """alpha_obj/(2 N_obj) sum M (..)^2 + alpha_bg/(2 N_bg) sum (1 - M) (..)^2 (eq. 3)."""
    theirs = 0.0
    for x, y, mask in pairs(student, teacher, foreground):
        error = ((x - y) ** 2).sum(dim=1)
        theirs = theirs + 0.5 / (2 * mask.sum()) * (mask * error).sum()
        theirs = theirs + 0.05 / (2 * (1 - mask).sum()) * ((1 - mask) * error).sum()
    ours = sum(call(x=x, y=y, fg=fg, a=0.5, b=0.05) for x, y, fg in pairs(student, teacher, foreground))
    same(ours, theirs, student)
    same(recipes.defeat(student, teacher, foreground, 0.5, 0.05), theirs, student)


@row("DeFeat, released code *")
def test_defeat_of_the_released_code(call, student, teacher, foreground):
    """The mask is repeated over the channels before it is summed, and the losses of the levels are averaged.

    A sum below 1 counts as 1, which matters for empty masks only.
    """
    parts = []
    for x, y, mask in pairs(student, teacher, foreground):
        near = mask[:, None].expand_as(x)
        each = [((x - y) ** 2 * part).sum() / (2 * part.sum()).clamp(min=1) for part in (near, 1 - near)]
        parts.append(3 * each[0] + 12 * each[1])
    theirs = torch.stack(parts).mean()
    names = dict(a=3, b=12, levels=len(student))
    ours = sum(call(x=x, y=y, fg=fg, **names) for x, y, fg in pairs(student, teacher, foreground))
    same(ours, theirs, student, rtol=1e-9)  # our normalizer adds 1e-9 to the sum
    same(recipes.defeat_released(student, teacher, foreground, 3, 12), theirs, student, rtol=1e-9)


def fgd_masks() -> tuple[list[Tensor], list[Tensor]]:
    """Foreground: 1 / (locations in the box), the largest where boxes overlap. Background: 1 / its size."""
    fore, back = [], []
    for height, width in SIZES:
        masks = torch.zeros(2, height, width, dtype=torch.float64)
        for mask, boxes in zip(masks, BOXES, strict=True):
            cells = boxes * torch.tensor([width / IMAGE[1], height / IMAGE[0]]).repeat(2)
            for left, top, right, bottom in cells.tolist():
                inside = slice(int(top), -int(-bottom // 1) + 1), slice(int(left), -int(-right // 1) + 1)
                area = (inside[0].stop - inside[0].start) * (inside[1].stop - inside[1].start)
                mask[inside] = mask[inside].clamp(min=1 / area)
        outside = (masks == 0).double()
        fore.append(masks)
        back.append(outside / outside.sum((1, 2), keepdim=True).clamp(min=1))
    return fore, back


def over_space(y: Tensor, temperature: float) -> Tensor:
    """[B, H, W]: H W times the softmax over locations of the mean over channels of |y|."""
    batch, _, height, width = y.shape
    mean = y.abs().sum(1) / y.shape[1]
    return height * width * torch.softmax(mean.reshape(batch, -1) / temperature, 1).reshape(mean.shape)


@row("FGD focal (Yang 2022) *")
def test_fgd(call, student, teacher):
    """alpha sum M S A^S A^C (..)^2 + beta sum (1-M) S A^S A^C (..)^2 over k, i, j (eq. 4-8), per image."""
    alpha, beta, temperature = 1e-3, 5e-4, 0.5
    theirs, ours = 0.0, 0.0
    fore, back = fgd_masks()
    for x, y, fg, bg in pairs(student, teacher, fore, back):
        channels, locations = y.shape[1], y.shape[2] * y.shape[3]
        space = over_space(y, temperature)
        channel_weights = channels * torch.softmax(y.abs().sum((2, 3)) / locations / temperature, 1)
        for image in range(len(x)):
            error = (x[image] - y[image]) ** 2 * channel_weights[image][:, None, None] * space[image]
            share = alpha * (fg[image] * error).sum() + beta * (bg[image] * error).sum()
            theirs = theirs + share / len(x)
        ours = ours + call(x=x, y=y, fg=fg, bg=bg, S=space, c=channel_weights, a=alpha, b=beta)
    same(ours, theirs, student)
    same(recipes.fgd(student, teacher, fore, back, alpha, beta), theirs, student)


@row("PGD (Yang 2022) *")
def test_pgd(call, student, teacher):
    """Summed squared error, per image, of features multiplied by the square roots of mask and attentions.

    The attentions are over locations, and over the channels of each location. Masks are divided by the number
    of their locations.
    """
    alpha, beta = 1e-3, 5e-4
    fore, back = [], []
    for level, (height, width) in enumerate(SIZES):
        quality = torch.rand(2, height, width, generator=torch.Generator().manual_seed(level)).double()
        quality[quality < 0.6] = 0
        for masks, raw in ((fore, quality), (back, (quality == 0).double())):
            masks.append(raw / (raw != 0).sum((1, 2), keepdim=True).clamp(min=1e-10))
    theirs, ours = 0.0, 0.0
    for x, y, fg, bg in pairs(student, teacher, fore, back):
        space = over_space(y, 0.5)
        channels = y.shape[1] * (y.abs() / 0.5).softmax(dim=1)
        for weight, mask in ((alpha, fg), (beta, bg)):
            root = (mask * space)[:, None].sqrt() * channels.sqrt()
            theirs = theirs + weight * F.mse_loss(x * root, y * root, reduction="sum") / len(x)
        ours = ours + call(x=x, y=y, fg=fg, bg=bg, S=space, A=channels, a=alpha, b=beta)
    same(ours, theirs, student)
    same(recipes.pgd(student, teacher, fore, back, alpha, beta), theirs, student)
    assert (recipes.fgd(student, teacher, fore, back, alpha, beta) / theirs - 1).abs() > 0.01  # no FGD


@row("MGD (Yang 2022)")
def test_mgd(call, student, teacher):
    """Two convolutions over features with randomly masked locations; squared error per image."""
    torch.manual_seed(0)
    generate = torch.nn.Sequential(
        torch.nn.Conv2d(12, 12, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(12, 12, 3, padding=1)
    ).double()
    theirs, ours = 0.0, 0.0
    for x, y in pairs(student, teacher):
        random = (torch.rand(2, 1, *x.shape[2:]) < 0.35).double()
        theirs = theirs + 2e-5 * ((generate(x * random) - y) ** 2).sum() / len(x)
        names = dict(generate=generate, random=random, ones=torch.ones_like(x[:, 0]), a=2e-5)
        ours = ours + call(x=x, y=y, **names)
    same(ours, theirs, student + list(generate.parameters()))


@row("PKD (Cao 2022)")
def test_pkd(call, student, teacher):
    """Half the mean squared error of features with mean 0 and deviation 1 per channel of the batch."""

    def normed(feat):
        mean, deviation = feat.mean((0, 2, 3), keepdim=True), feat.std((0, 2, 3), keepdim=True)
        return (feat - mean) / (deviation + 1e-6)

    theirs = sum(F.mse_loss(normed(x), normed(y)) / 2 for x, y in pairs(student, teacher))
    ours = sum(
        call(x=x, y=y, normed=normed, ones=torch.ones_like(x[:, 0])) for x, y in pairs(student, teacher)
    )
    same(ours, theirs, student)


def test_images_without_objects_have_no_loss(student, teacher):
    empty = [torch.zeros_like(x[:, 0]) for x in student]
    loss = recipes.fgfi(student, teacher, empty)
    loss.backward()
    assert loss == 0
    assert all(not x.grad.any() for x in student)
