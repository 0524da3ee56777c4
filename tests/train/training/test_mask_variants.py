"""The two FRS masks: class scores alone, and class scores times the center-ness of an FCOS teacher."""

import pytest
import torch
from tiny_detectors import batch, tiny

import frs_kernels as frs
from frs_train.config import DistillConfig
from frs_train.errors import UserError
from frs_train.training.distillation import DistilledLearner

IMAGES, TARGETS = batch()
FRS_METHODS = ("frs", "frs-feature", "frs-head")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def learner(teacher=None, **options):
    teacher = (teacher or tiny("fcos")).eval().requires_grad_(False)
    config = DistillConfig(warmup_iters=0, feat_weight=1.0, head_weight=1.0, **options)
    return DistilledLearner(tiny(teacher.family), teacher, config, True, pytest.fail).train()


def masks_of(distilled):
    taught = distilled.teach(IMAGES, 64)
    return taught, distilled.masks(taught, TARGETS, IMAGES)


def count_of_towers(distilled):
    """Counts the runs of the teacher's regression tower."""
    runs = []
    tower = distilled.teacher.model.head.regression_head.conv
    tower.register_forward_hook(lambda *_: runs.append(1))
    return runs


@pytest.mark.parametrize("method", FRS_METHODS)
def test_default_mask_is_the_highest_score_and_leaves_the_box_tower_alone(method):
    distilled = learner(method=method)
    runs = count_of_towers(distilled)
    taught, masks = masks_of(distilled)
    with torch.inference_mode():
        expected = frs.frs_mask(taught.cls_logits)
    assert all(torch.equal(a, b) for a, b in zip(masks, expected, strict=True))
    assert runs == []


def test_constant_logits_give_the_product_of_both_probabilities():
    """sigmoid(log p / (1 - p)) = p: class scores 0.2, 0.6 and 0.5, center-ness 0.75, so that S is 0.45."""
    teacher = tiny("fcos")
    head = teacher.model.head
    layers = {
        head.classification_head.cls_logits: [0.2, 0.6, 0.5],
        head.regression_head.bbox_ctrness: [0.75],
    }
    for layer, probabilities in layers.items():
        torch.nn.init.zeros_(layer.weight)
        layer.bias.data = torch.tensor(probabilities).logit()
    _, masks = masks_of(learner(teacher, mask="score-centerness"))
    for mask in masks:
        torch.testing.assert_close(mask, torch.full_like(mask, 0.6 * 0.75))


@pytest.mark.parametrize("method", FRS_METHODS)
def test_centerness_is_that_of_the_same_location(method):
    """Against torchvision's head, which returns all levels in one tensor [B, sum(H*W), 1]."""
    teacher = tiny("fcos")
    torch.nn.init.normal_(teacher.model.head.regression_head.bbox_ctrness.weight)
    distilled = learner(teacher, mask="score-centerness", method=method)
    runs = count_of_towers(distilled)
    taught, masks = masks_of(distilled)
    assert len(runs) == len(taught.feats)
    with torch.inference_mode():
        scores = frs.reference.frs_mask(taught.cls_logits)
        centers = teacher.run_head(taught.feats)["bbox_ctrness"].sigmoid()
    centers = centers[..., 0].split([score[0].numel() for score in scores], dim=1)
    for mask, score, center in zip(masks, scores, centers, strict=True):
        torch.testing.assert_close(mask, score * center.reshape(score.shape))
        assert mask.dtype == torch.float32
    assert centers[0].std() > 0.01, "a constant would also fit in the wrong place"
    sum(distilled(IMAGES, TARGETS, 64).values()).backward()


@pytest.mark.parametrize(
    ("family", "reason"),
    [("retinanet", "it has none"), ("gfl", "predict the IoU"), ("faster-rcnn", "it has none")],
)
def test_teacher_without_centerness_is_refused(family, reason):
    with pytest.raises(UserError, match=f"--mask score-centerness .* {family}.*{reason}.*Use --mask score"):
        learner(tiny(family), mask="score-centerness")


@pytest.mark.parametrize("method", ["whole-map", "gt-box"])
def test_methods_with_a_mask_of_their_own_are_refused(method):
    with pytest.raises(UserError, match=f"--mask score-centerness .*--method {method}"):
        DistillConfig(mask="score-centerness", method=method)
