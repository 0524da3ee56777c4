"""The rows of softmax distributions in the table of other losses (published_losses.py)."""

import pytest
import softmax_losses as recipes
import torch
import torch.nn.functional as F
from published_losses import SIZES, levels, pairs, row, same
from torch import Tensor

import frs_kernels as frs

CLASSES, BINS = 12, 5


@pytest.fixture
def student() -> list[Tensor]:
    return [s.requires_grad_() for s in levels(0, CLASSES)]


@pytest.fixture
def teacher() -> list[Tensor]:
    return levels(1, CLASSES)


@pytest.fixture
def edges() -> list[Tensor]:
    return [s.requires_grad_() for s in levels(2, 4 * BINS)]


@pytest.fixture
def teacher_edges() -> list[Tensor]:
    return levels(3, 4 * BINS)


@pytest.fixture
def labels() -> list[Tensor]:
    """A class per location [B, H, W], or -1."""
    random = torch.Generator().manual_seed(4)
    return [torch.randint(-1, CLASSES, (2, *size), generator=random) for size in SIZES]


def rows(level: Tensor, channels: int) -> Tensor:
    """[B, n * channels, H, W] as [B H W n, channels], as dense heads flatten their outputs."""
    return level.permute(0, 2, 3, 1).reshape(-1, channels)


def bin_losses(s: Tensor, t: Tensor, tau: float) -> Tensor:
    """tau^2 p (log p - log q) of every bin, for rows of logits."""
    return F.kl_div((s / tau).log_softmax(1), (t / tau).softmax(1), reduction="none") * tau**2


@row("Hinton's KD (2015) *")
def test_kd(call, student, teacher):
    """The divergence of softened distributions times tau^2, the mean over the locations (MMRazor's rows)."""
    theirs = sum(
        0.7 * bin_losses(rows(s, CLASSES), rows(t, CLASSES), 4.0).sum(1).mean()
        for s, t in pairs(student, teacher)
    )
    ours = sum(call(s=s, T=t, tau=4.0, a=0.7) for s, t in pairs(student, teacher))
    same(ours, theirs, student)
    same(0.7 * recipes.kd(student, teacher, 4.0), theirs, student)


def test_kd_at_positive_locations(student, teacher, labels):
    """As PP-YOLOE's distillation: the sum over the positive locations, divided by their number."""
    fg = [label >= 0 for label in labels]
    theirs = 0.0
    for s, t, mask in pairs(student, teacher, fg):
        chosen = rows(s, CLASSES)[mask.flatten()], rows(t, CLASSES)[mask.flatten()]
        theirs = theirs + bin_losses(*chosen, 1.0).sum() / mask.sum()
    same(recipes.kd(student, teacher, 1.0, fg), theirs, student)


def test_kd_of_images_and_its_batchmean():
    """Logits [N, C], and PyTorch's batchmean of logits [B, C, H, W], which sums over the locations."""
    s, t = (torch.randn(7, CLASSES, generator=torch.Generator().manual_seed(i)).double() for i in (0, 1))
    s.requires_grad_()
    theirs = F.kl_div((s / 4).log_softmax(1), (t / 4).softmax(1), reduction="batchmean") * 16
    same(frs.weighted_kl(s[..., None], t[..., None], temperature=4.0), theirs, [s])
    (s, *_), (t, *_) = [s.requires_grad_() for s in levels(0)], levels(1)
    theirs = F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean")
    same(frs.weighted_kl(s, t, normalizer="batch"), theirs, [s])


@row("LD (Zheng 2022), boxes *")
def test_ld(call, student, edges, teacher_edges, labels):
    """mmdetection's LDHead: positive locations alone, a mean over the bins, weights repeated for four edges.

    The sum is divided by 4, and by nothing that counts locations.
    """
    theirs, scores = 0.0, []
    for logits, s, t, label in pairs(student, edges, teacher_edges, labels):
        positive = (label >= 0).flatten().nonzero().squeeze(1)
        weights = rows(logits.detach(), CLASSES).sigmoid().amax(1)[positive]
        s_corners = rows(s, 4 * BINS)[positive].reshape(-1, BINS)
        t_corners = rows(t, 4 * BINS)[positive].reshape(-1, BINS)
        losses = bin_losses(s_corners, t_corners, 10.0).mean(1)
        theirs = theirs + 0.25 * (losses * weights[:, None].expand(-1, 4).reshape(-1)).sum() / 4.0
        scores.append(logits.detach().sigmoid().amax(dim=1) * (label >= 0))
    names = dict(tau=10.0, bins=BINS, a=0.25)
    ours = sum(call(s=s, T=t, scores=score, **names) for s, t, score in pairs(edges, teacher_edges, scores))
    same(ours, theirs, edges)
    same(recipes.ld(edges, teacher_edges, scores), theirs, edges)


@row("LD, classes")
def test_ld_of_classes(call, student, teacher, labels):
    """Of LD's own repository: positive locations alone, a mean over the classes and over the locations."""
    theirs, ours = 0.0, 0.0
    for s, t, label in pairs(student, teacher, labels):
        positive = (label >= 0).flatten()
        losses = bin_losses(rows(s, CLASSES)[positive], rows(t, CLASSES)[positive], 2.0).mean(1)
        theirs = theirs + 0.5 * losses.sum() / positive.sum()
        ours = ours + call(s=s, T=t, fg=label >= 0, tau=2.0, classes=CLASSES, a=0.5)
    same(ours, theirs, student)


@row("CrossKD, boxes of GFL *")
def test_crosskd_boxes(call, teacher, edges, teacher_edges):
    """A sum over the bins, weighted by the teacher's largest class probability, but 0 at ignored anchors.

    The sums of the levels are divided by 4, and then by the weights of all levels.
    """
    masks, sums, weights = [], [], []
    for logits, s, t in pairs(teacher, edges, teacher_edges):
        ignored = rows(logits[:, :1], 1)[:, 0] < -0.8
        weight = rows(logits, CLASSES).amax(1).sigmoid()
        weight[ignored] = 0
        losses = bin_losses(rows(s, BINS), rows(t, BINS), 1.0).sum(1)
        sums.append(3.0 * (losses * weight[:, None].expand(-1, 4).reshape(-1)).sum() / 4.0)
        weights.append(weight.sum())
        masks.append(weight.reshape(2, *s.shape[2:]))
    theirs = sum(sums) / sum(weights)
    same(call(s=edges, T=teacher_edges, S=masks, a=3.0), theirs, edges)
    padded = [logits.masked_fill((mask == 0)[:, None], -torch.inf) for logits, mask in pairs(teacher, masks)]
    same(recipes.crosskd_boxes(edges, teacher_edges, padded, 3.0), theirs, edges)


@row("CWD (Shu 2021) *")
def test_cwd(call, student, teacher):
    """tau^2 / (C N) times the sum of p log p - p log q, with a softmax over the locations of each channel."""
    theirs, tau = 0.0, 4.0
    for s, t in pairs(student, teacher):
        batch, channels, height, width = s.shape
        p = F.softmax(t.reshape(-1, height * width) / tau, dim=1)
        log_p = F.log_softmax(t.reshape(-1, height * width) / tau, dim=1)
        log_q = F.log_softmax(s.reshape(-1, height * width) / tau, dim=1)
        theirs = theirs + 10.0 * tau**2 * (p * log_p - p * log_q).sum() / (channels * batch)
    ours = sum(call(s=s, T=t, tau=tau, a=10.0) for s, t in pairs(student, teacher))
    same(ours, theirs, student)
    same(10.0 * recipes.cwd(student, teacher, tau), theirs, student)


def decoupled(s: Tensor, t: Tensor, labels: Tensor, alpha: float, beta: float, tau: float) -> Tensor:
    """DKD of rows [N, C], as its authors compute it: probabilities that are added, and logits less 1000."""
    target = F.one_hot(labels, s.shape[1]).bool()
    p, q = (t / tau).softmax(1), (s / tau).softmax(1)
    p, q = (torch.stack([(x * target).sum(1), (x * ~target).sum(1)], dim=1) for x in (p, q))
    target_part = F.kl_div(q.log(), p, reduction="sum") * tau**2 / len(s)
    p, log_q = (t / tau - 1000.0 * target).softmax(1), (s / tau - 1000.0 * target).log_softmax(1)
    return alpha * target_part + beta * F.kl_div(log_q, p, reduction="sum") * tau**2 / len(s)


@row("DKD (Zhao 2022) *")
def test_dkd(call, student, teacher, labels):
    """The rows of the labeled locations alone."""
    theirs, ours, tau = 0.0, 0.0, 4.0
    for s, t, label in pairs(student, teacher, labels):
        labeled, classes = label >= 0, label.clamp(min=0)
        chosen = (rows(z, CLASSES)[labeled.flatten()] for z in (s, t))
        theirs = theirs + decoupled(*chosen, label[labeled], 1.0, 8.0, tau)
        names = {
            name: lambda z, part=part, classes=classes: recipes.target_and_rest([z], [classes], tau)[part][0]
            for part, name in enumerate(("pair", "rest"))
        }
        ours = ours + call(s=s, T=t, labeled=labeled, tau=tau, a=1.0, b=8.0, **names)
    same(ours, theirs, student)
    same(recipes.dkd(student, teacher, labels, 1.0, 8.0, tau), theirs, student)


@row("logit standardization (Sun 2024)")
def test_logit_standardization(call, student, teacher):
    """Each location's logits with mean 0 and deviation 1, then Hinton's KD."""

    def normed(z):
        return (z - z.mean(1, keepdim=True)) / (1e-7 + z.std(1, keepdim=True))

    theirs = sum(
        9.0 * bin_losses(normed(rows(s, CLASSES)), normed(rows(t, CLASSES)), 2.0).sum(1).mean()
        for s, t in pairs(student, teacher)
    )
    ours = sum(call(s=s, T=t, normed=normed, tau=2.0, a=9.0) for s, t in pairs(student, teacher))
    same(ours, theirs, student)


def test_a_student_that_equals_its_teacher_has_no_loss(teacher, teacher_edges, labels):
    same_as_teacher = [t.clone() for t in teacher]
    scores = [torch.ones(2, *size) for size in SIZES]
    assert recipes.kd(same_as_teacher, teacher, 4.0) == 0
    assert recipes.cwd(same_as_teacher, teacher) == 0
    assert recipes.ld([t.clone() for t in teacher_edges], teacher_edges, scores) == 0
    assert recipes.dkd(same_as_teacher, teacher, labels, 1.0, 8.0, 4.0) == 0
