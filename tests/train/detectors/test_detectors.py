"""All detector families: outputs, a single run of the head, losses that match the detections, options."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from tiny_detectors import FAMILIES, TINY, batch, seeded_on_one_thread, tiny
from torch import nn
from torchvision.ops import box_iou

from frs_kernels import reference
from frs_train.config import Backbone, DetectorConfig
from frs_train.detectors import build_detector
from frs_train.detectors.backbone import group_norm
from frs_train.detectors.base import anchors_of
from frs_train.errors import UserError


@pytest.fixture(autouse=True)
def quiet():
    with seeded_on_one_thread():
        yield


@pytest.mark.parametrize("family", FAMILIES)
def test_training_outputs_have_the_promised_shapes(family):
    detector = tiny(family)
    images, targets = batch()
    outputs = detector(images, targets, size=64)
    height, width = outputs.padded_size
    assert (height, width) == (64, 96)
    assert outputs.image_sizes == [(64, 64), (64, 96)]
    for feat, logits, stride in zip(outputs.feats, outputs.cls_logits, detector.strides, strict=True):
        grid = (-(-height // stride), -(-width // stride))
        assert feat.shape == (2, 16, *grid)
        assert logits.shape == (2, detector.logit_channels, *grid)
    assert len(outputs.losses) >= 2
    assert all(loss.dim() == 0 and loss.isfinite() for loss in outputs.losses.values())
    assert outputs.masks == []


@pytest.mark.parametrize("family", FAMILIES)
def test_head_runs_once(family):
    detector = tiny(family).train()
    head = detector.model.rpn.head if family == "faster-rcnn" else detector.model.head.classification_head
    runs = []
    head.cls_logits.register_forward_hook(lambda *_: runs.append(1))
    detector(*batch(), size=64)
    assert len(runs) == len(detector.strides)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_without_targets_equal_those_of_training(family):
    """Without targets only the classification branch runs; its logits have the layout of training."""
    detector = tiny(family).eval()
    images, targets = batch()
    with torch.no_grad():
        taught = detector(images, size=64, masks=True)
        trained = detector(images, targets, size=64)
    assert taught.losses == {}
    for alone, whole in zip(taught.cls_logits, trained.cls_logits, strict=True):
        torch.testing.assert_close(alone, whole)
        if family != "faster-rcnn" and alone[0, 0].numel() > 1:
            assert alone.stride(1) == whole.stride(1) == 1, (
                "channel-major on both sides, so no copy is needed"
            )
    for mask, logits in zip(taught.masks, taught.cls_logits, strict=True):
        torch.testing.assert_close(mask, reference.frs_mask(logits))


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_pass_skips_boxes(family):
    detector = tiny(family).eval()
    calls = []
    idle = detector.model.roi_heads if family == "faster-rcnn" else detector.model.head.regression_head
    idle.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        detector(batch()[0], size=64, masks=True)
    assert calls == []


def test_level_views_share_memory_with_the_head_that_gives_the_losses():
    detector = tiny("retinanet")
    seen = []
    detector.model.head.register_forward_hook(lambda _, __, out: seen.append(out["cls_logits"]))
    outputs = detector(*batch(), size=64)
    storage = seen[0].untyped_storage().data_ptr()
    assert all(view.untyped_storage().data_ptr() == storage for view in outputs.cls_logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_logit_gradients_reach_every_parameter(family):
    detector = tiny(family)
    outputs = detector(*batch(), size=64)
    (sum(outputs.losses.values()) + sum(level.square().sum() for level in outputs.cls_logits)).backward()
    idle = [name for name, p in detector.named_parameters() if p.grad is None]
    assert idle == []


class FreeHead:
    """The outputs of a detector's head as free parameters, without a network that computes them.

    The second stage of Faster R-CNN returns the correct answer: for each region the label and box of the
    object that it overlaps most, if by at least half. Its losses are then zero.
    """

    def __init__(self, detector, images, targets):
        prepared, self.targets = detector.prepare(images, targets, 64)
        self.classes, self.leaves, self.regions = detector.num_classes, [], []
        one_stage = detector.family != "faster-rcnn"
        head = detector.model.head if one_stage else detector.model.rpn.head
        with torch.no_grad():
            feats = detector.features(prepared)
            outputs = head(feats)
        if detector.family == "fcos":
            outputs["bbox_regression"] += 1  # distances pass a ReLU: a box of size 0 has gradient 0
        outputs = self._free(outputs)
        detector.features = lambda batch: feats
        head.forward = lambda feats: outputs
        if not one_stage:
            stage = detector.model.roi_heads
            self.coder = stage.box_coder
            stage.box_roi_pool.register_forward_pre_hook(lambda _, inputs: self._see(inputs[1]))
            stage.box_predictor.forward = lambda _: self._second_stage()

    def _free(self, outputs):
        if isinstance(outputs, dict):
            return {name: self._free(value) for name, value in outputs.items()}
        if isinstance(outputs, (list, tuple)):
            return [self._free(value) for value in outputs]
        self.leaves.append(outputs.clone().requires_grad_())
        return self.leaves[-1]

    def _see(self, regions):
        self.regions = regions

    def _second_stage(self):
        scores, deltas = [], []
        for regions, target in zip(self.regions, self.targets, strict=True):
            overlap, which = box_iou(regions, target["boxes"]).max(1)
            label = torch.where(overlap >= 0.5, target["labels"][which], 0)
            scores.append(20.0 * F.one_hot(label, self.classes + 1))
            deltas += self.coder.encode([target["boxes"][which]], [regions])
        return torch.cat(scores), torch.cat(deltas).repeat(1, self.classes + 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_minimizing_the_loss_yields_the_detections(family, training_seed, bounded):
    """The loss and `detect` interpret outputs equally: gradient descent on outputs makes them the targets."""
    torch.manual_seed(training_seed)
    detector = tiny(family, anchor_size=16)
    images, targets = batch()
    head = FreeHead(detector, images, targets)
    optimizer = torch.optim.Adam(head.leaves, lr=0.3)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 60)
        losses = detector(images, targets, size=64).losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    if family == "faster-rcnn":
        assert losses["loss_classifier"] < 1e-6 and losses["loss_box_reg"] < 1e-6
    for found, target in zip(detector.eval().detect(images), targets, strict=True):
        right = target["labels"][:, None] == found["labels"]
        overlaps = box_iou(target["boxes"], found["boxes"]) * right
        best = (found["scores"] * right).argmax(1)
        assert len(set(best.tolist())) == len(best)
        bounded("overlap lost", 1 - overlaps.gather(1, best[:, None]).min().item(), most=0.2)
        bounded("score", found["scores"][best].min().item(), least=0.4)
        bounded("false score", found["scores"][overlaps.amax(0) < 0.5].sum().item(), most=0.1)
    for regions, target in zip(head.regions, head.targets, strict=False):  # the first stage of Faster R-CNN
        bounded("overlap lost", 1 - box_iou(target["boxes"], regions).amax(1).min().item(), most=0.3)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_without_boxes_are_background(family):
    detector = tiny(family)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = detector([torch.rand(3, 64, 64)] * 2, [empty, empty], size=64).losses
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_do_not_depend_on_which_label_is_first(family):
    """Labels are 1..K for each family, also if it counts from 0 internally: the last class is in range."""
    detector = tiny(family, num_classes=2)
    images, targets = batch()
    targets = [{**t, "labels": torch.full_like(t["labels"], 2)} for t in targets]
    assert sum(detector(images, targets, size=64).losses.values()).isfinite()
    with torch.no_grad():
        for image in detector.eval().detect(images):
            assert image["labels"].numel() == 0 or set(image["labels"].tolist()) <= {1, 2}


@pytest.mark.parametrize("family", FAMILIES)
def test_detections_are_in_the_pixels_of_the_image_given(family):
    detector = tiny(family, score_threshold=0.0, detections_per_image=20).eval()
    found = detector.detect([torch.rand(3, 120, 200)])[0]
    assert 0 < len(found["boxes"]) <= 20
    assert found["boxes"].min() >= 0
    assert found["boxes"][:, 2].max() <= 200 and found["boxes"][:, 3].max() <= 120
    assert found["boxes"].max() > 96, "boxes were left in resized pixels"


def test_detect_refuses_training_mode():
    with pytest.raises(RuntimeError, match=r"\.eval\(\)"):
        tiny().train().detect([torch.rand(3, 64, 64)])


def test_size_is_the_shorter_side_in_training_and_evaluation():
    detector = tiny(min_size=(48, 64))
    images = [torch.rand(3, 32, 32)]
    assert detector(images, size=96).image_sizes == [(96, 96)]
    assert detector(images).image_sizes == [(64, 64)]
    assert detector.eval()(images, size=96).image_sizes == [(96, 96)]


@pytest.mark.parametrize("family", FAMILIES)
def test_boxes_stay_float32_under_bfloat16(family):
    detector = tiny(family, score_threshold=0.0).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = detector(*batch(), size=64)
        found = detector.detect([torch.rand(3, 64, 100), torch.rand(3, 64, 1000)])[1]
    assert outputs.cls_logits[0].dtype == torch.bfloat16
    assert found["boxes"].dtype == torch.float32
    assert not torch.equal(found["boxes"], found["boxes"].bfloat16().float())
    assert all(loss.isfinite() for loss in outputs.losses.values())


def test_anchors_do_not_lose_pixels_to_half_precision():
    detector = tiny("retinanet")
    images, _ = detector.prepare([torch.rand(3, 64, 1000)], None, 64)
    feats = detector.features(images)
    exact = anchors_of(detector.anchor_generator, images, feats)[0]
    rounded = anchors_of(detector.anchor_generator, images, [feat.bfloat16() for feat in feats])[0]
    assert torch.equal(exact, rounded)


@pytest.mark.parametrize("backbone", get_args(Backbone))
def test_every_backbone_gives_five_levels(backbone):
    options = {**TINY, "backbone": backbone, "backbone_norm": "frozen", "trainable_layers": 3}
    detector = build_detector(DetectorConfig(**options), 2).eval()
    with torch.no_grad():
        outputs = detector([torch.rand(3, 64, 64)])
    assert [tuple(feat.shape[-2:]) for feat in outputs.feats] == [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
    body = detector.model.backbone.body
    frozen = [n for n, p in body.named_parameters() if not p.requires_grad]
    trained = [n for n, p in body.named_parameters() if p.requires_grad]
    assert frozen and trained
    assert min(map(_depth, trained)) > max(map(_depth, frozen))


def _depth(name):
    first = name.split(".")[0]
    return int(first) if first.isdigit() else int(first[-1]) if first.startswith("layer") else 0


def test_width_scales_the_trunk():
    def channels(width):
        body = tiny(backbone="resnet18", backbone_width=width).model.backbone.body
        return [body[f"layer{i}"][-1].conv2.out_channels for i in (1, 2, 3, 4)]

    assert channels(1.0) == [64, 128, 256, 512]
    assert channels(0.5) == [32, 64, 128, 256]


def test_group_norm_has_torchvisions_groups_at_256_and_never_single_channels():
    assert group_norm(256).num_groups == 32
    for channels in (8, 12, 16, 24, 36, 40, 64, 100):
        groups = group_norm(channels).num_groups
        assert channels % groups == 0 and channels // groups >= 8


def test_head_convs_and_norms_are_options():
    plain, normed = tiny(head_convs=2, head_norm="none"), tiny(head_convs=4, head_norm="group")
    for detector, convs, norms in ((plain, 2, 0), (normed, 4, 4)):
        tower = list(detector.model.head.classification_head.conv.modules())
        assert sum(isinstance(m, nn.Conv2d) for m in tower) == convs
        assert sum(isinstance(m, nn.GroupNorm) for m in tower) == norms


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"family": "yolo"}, "yolo"),
        ({"backbone": "vgg"}, "vgg"),
        ({"head_convs": 9}, "9"),
        ({"anchor_size": 2}, "2"),
        ({"backbone_norm": "x"}, "x"),
    ],
)
def test_unknown_options_are_named(wrong, match):
    with pytest.raises(UserError, match=match):
        DetectorConfig(**{**TINY, **wrong})
