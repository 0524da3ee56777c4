"""FRSKLDivergence and FRSChannelWiseDivergence, built by MMEngine's registry, against MMRazor's losses.

MMRazor itself cannot be imported with the torch of these tests, so its arithmetic is written from its
description.
"""

import pytest
import torch
import torch.nn.functional as F

import frs_kernels as frs

pytest.importorskip("mmengine", reason="needs mmengine (pip install mmengine)")

from mmengine.registry import MODELS  # noqa: E402
from published_losses import levels, pairs, same  # noqa: E402

from frs_kernels.integrations.mmrazor import FRSWarmupHook  # noqa: E402


def kl_divergence(s, t, tau, reduction):
    """MMRazor's KLDivergence: softmax over dimension 1, and a reduction of PyTorch."""
    return tau**2 * F.kl_div((s / tau).log_softmax(1), (t / tau).softmax(1), reduction=reduction)


@pytest.mark.parametrize("normalizer, reduction", [(None, "batchmean"), (1.0, "sum"), ("numel", "mean")])
@pytest.mark.filterwarnings("ignore:reduction. 'mean'")
def test_kl_divergence(normalizer, reduction):
    student, teacher = [s.requires_grad_() for s in levels(0)], levels(1)
    options = {} if normalizer is None else {"normalizer": normalizer}
    loss = MODELS.build({"type": "FRSKLDivergence", "tau": 3.0, "loss_weight": 0.5, **options})
    theirs = sum(0.5 * kl_divergence(s, t, 3.0, reduction) for s, t in pairs(student, teacher))
    same(loss(preds_S=tuple(student), preds_T=tuple(teacher)), theirs, student)
    same(sum(loss(preds_S=s, preds_T=t) for s, t in pairs(student, teacher)), theirs, student)


def test_kl_divergence_of_logits_of_images_and_of_a_head():
    """[N, C] as of ``head.fc``, and the class scores in a detector's output (class scores, boxes)."""
    loss = MODELS.build({"type": "FRSKLDivergence", "tau": 2.0})
    s, t = (torch.randn(7, 12, generator=torch.Generator().manual_seed(i)).double() for i in (0, 1))
    s.requires_grad_()
    same(loss(preds_S=s, preds_T=t), kl_divergence(s, t, 2.0, "batchmean"), [s])
    student, teacher = [s.requires_grad_() for s in levels(2)], levels(3)
    of_heads = loss(preds_S=(student, levels(4)), preds_T=(teacher, levels(5)))
    same(of_heads, loss(preds_S=student, preds_T=teacher), student)


def test_kl_divergence_of_box_edges_weighted_by_the_frs_mask():
    student, teacher, logits = [s.requires_grad_() for s in levels(0, 20)], levels(1, 20), levels(2)
    build = {"type": "FRSKLDivergence", "tau": 10.0, "groups": 4, "normalizer": "mask_all_levels"}
    ours = MODELS.build(build)(preds_S=student, preds_T=teacher, t_logits=(logits, levels(3)))
    theirs, weights = 0.0, 0.0
    for s, t, z in pairs(student, teacher, logits):
        edges = (x.unflatten(1, (4, 5)).transpose(1, 2) for x in (s, t))
        bins = 100 * F.kl_div(*(x.div(10).log_softmax(1) for x in edges), reduction="none", log_target=True)
        mask = z.sigmoid().amax(1)
        theirs, weights = theirs + (mask * bins.sum((1, 2))).sum(), weights + mask.sum()
    same(ours, theirs / weights, student)


def test_channel_wise_divergence():
    """MMRazor's: a softmax over the locations of each channel, the sum divided by channels and images."""
    student, teacher = [s.requires_grad_() for s in levels(0)], levels(1)
    loss = MODELS.build({"type": "FRSChannelWiseDivergence", "tau": 4.0, "loss_weight": 10.0})
    theirs = 0.0
    for s, t in pairs(student, teacher):
        batch, channels, height, width = s.shape
        flat = (z.reshape(-1, height * width) for z in (s, t))
        theirs = theirs + 10.0 * kl_divergence(*flat, 4.0, "sum") / (channels * batch)
    same(loss(preds_S=tuple(student), preds_T=tuple(teacher)), theirs, student)
    same(sum(loss(preds_S=s, preds_T=t) for s, t in pairs(student, teacher)), theirs, student)


@pytest.mark.parametrize("kind", ["FRSKLDivergence", "FRSChannelWiseDivergence"])
def test_the_warm_up_hook_knows_them(kind):
    class Runner:
        model, optim_wrapper, iter = torch.nn.ModuleDict({"loss": MODELS.build({"type": kind})}), None, 3

    hook = FRSWarmupHook(iters=4)
    hook.before_train(Runner)
    s, t = levels(0)[0], levels(1)[0]
    full = Runner.model["loss"](preds_S=s, preds_T=t)
    hook.before_train_iter(Runner, 0)
    torch.testing.assert_close(Runner.model["loss"](preds_S=s, preds_T=t), 0.75 * full)


@pytest.mark.parametrize("kind", ["FRSKLDivergence", "FRSChannelWiseDivergence"])
def test_a_wrong_keyword_raises_and_names_the_type_and_its_keywords(kind):
    with pytest.raises(TypeError, match=f"{kind}: .*'reduction'; it takes tau, loss_weight") as raised:
        MODELS.build({"type": kind, "reduction": "batchmean"})
    assert "_Term" not in str(raised.value)


def test_predictions_of_different_shapes_raise():
    loss = MODELS.build({"type": "FRSChannelWiseDivergence"})
    with pytest.raises(ValueError, match=r"level 1: student \[2, 12, 4, 5\] and teacher \[2, 6, 4, 5\]"):
        loss(preds_S=levels(0), preds_T=[levels(1)[0], levels(1, 6)[1], levels(1)[2]])
    assert frs.weighted_kl(levels(0), levels(1), over="locations") == loss(levels(0), levels(1))
