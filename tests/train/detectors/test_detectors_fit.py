"""Detectors and torchvision (export, published weights), and the compatibility of teacher and student."""

import re

import pytest
import torch
from tiny_detectors import batch, seeded_on_one_thread, tiny
from torchvision.models import detection, mobilenet_v3_large, resnet18
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from frs_train.detectors import (
    build_detector,
    compatibility,
    from_torchvision,
    load_weights,
    pretrained,
    torchvision_model,
    torchvision_state_dict,
)
from frs_train.errors import UserError


@pytest.fixture(autouse=True)
def quiet():
    with seeded_on_one_thread():
        yield


@pytest.mark.parametrize("family", ["retinanet", "fcos", "faster-rcnn"])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_export_loads_into_plain_torchvision_and_detects_the_same(family, norm):
    options = dict(backbone_norm=norm, head_norm="none", score_threshold=0.0, detections_per_image=10)
    detector = tiny(family, **options).eval()
    plain = torchvision_model(detector)
    assert type(plain).__module__.startswith("torchvision.models.detection")
    images = [torch.rand(3, 64, 96)]
    with torch.no_grad():
        ours, theirs = detector.detect(images)[0], plain(images)[0]
    for key in ("boxes", "scores", "labels"):
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-4)
    assert set(theirs["labels"].tolist()) <= {1, 2, 3}


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_export_loads_strictly_into_torchvisions_own_constructors(norm):
    options = dict(backbone_width=1.0, fpn_width=256, head_convs=4, head_norm="none", backbone_norm=norm)
    retinanet = tiny("retinanet", backbone="resnet50", **options)
    theirs = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    theirs.load_state_dict(torchvision_state_dict(retinanet), strict=True)
    small = tiny("faster-rcnn", backbone="resnet18", **options)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    detection.FasterRCNN(backbone, num_classes=4).load_state_dict(torchvision_state_dict(small), strict=True)
    small = tiny("fcos", backbone="resnet18", **options)
    extra = LastLevelP6P7(256, 256)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=extra
    )
    detection.FCOS(backbone, num_classes=4).load_state_dict(torchvision_state_dict(small), strict=True)


def test_export_of_gfl_says_that_torchvision_has_none():
    with pytest.raises(ValueError, match="no GFL"):
        torchvision_state_dict(tiny("gfl"))


def test_same_architecture_shares_all_losses():
    found = compatibility(tiny(fpn_width=32), tiny(fpn_width=16))
    assert found.logit_difference is found.unshared is None
    assert found.levels == [(i, i) for i in range(5)]


@pytest.mark.parametrize(
    ("teacher", "student", "why"),
    [
        (dict(num_classes=3), dict(num_classes=2), "3 classes"),
        (dict(anchor_size=16), dict(anchor_size=32), "anchors"),
        (dict(family="fcos"), dict(family="gfl"), "fcos"),
    ],
)
def test_different_heads_leave_the_feature_loss(teacher, student, why):
    found = compatibility(tiny(**teacher), tiny(**student))
    assert len(found.levels) == 5 and why in found.logit_difference


def test_class_names_decide_if_channels_agree():
    assert "different classes" in compatibility(tiny(), tiny(), same_classes=False).logit_difference
    rpn = tiny("faster-rcnn"), tiny("faster-rcnn", num_classes=7)
    assert compatibility(*rpn, same_classes=False).logit_difference is None, "objectness has no classes"


@pytest.mark.parametrize(
    ("teacher", "student", "why"),
    [
        (dict(family="gfl"), dict(family="gfl", fpn_width=32), None),
        (dict(family="gfl", num_classes=7), dict(family="gfl"), None),  # edges have no classes
        (dict(family="gfl", anchor_size=16), dict(family="gfl"), "the anchors .* differ"),
        (dict(family="gfl"), dict(family="fcos"), "the student is a fcos, .* only gfl"),
        (dict(family="retinanet"), dict(family="gfl"), "the teacher is a retinanet, .* only gfl"),
        (dict(family="faster-rcnn"), dict(family="faster-rcnn"), "the teacher is a faster-rcnn"),
    ],
)
def test_edges_fit_between_gfls_with_the_same_anchors(teacher, student, why):
    found = compatibility(tiny(**teacher), tiny(**student)).edge_difference
    assert re.search(why, found) if why else found is None


def test_pyramids_share_their_common_strides():
    found = compatibility(tiny("faster-rcnn"), tiny("retinanet"))
    assert found.levels == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert "8, 16, 32, 64" in found.unshared
    teacher = tiny()
    teacher.strides = (2, 3)
    with pytest.raises(UserError, match="none is shared"):
        compatibility(teacher, tiny())


def published(name, monkeypatch):
    """Random weights in the form that torchvision publishes under `name`: 91 classes, epsilon 0."""
    torch.manual_seed(1)
    state = detection.__dict__[name](weights=None, weights_backbone=None, num_classes=91).state_dict()
    state = {k: torch.rand_like(v) + 0.5 if k.endswith("running_var") else v for k, v in state.items()}
    monkeypatch.setattr(pretrained, "_fetch", lambda weights: state)
    return state


@pytest.mark.parametrize("name", sorted(pretrained.CATALOGUE))
def test_published_coco_weights_become_eighty_classes(name, monkeypatch):
    state = published(name, monkeypatch)
    detector = from_torchvision(name)
    assert detector.num_classes == 80
    own = detector.model.state_dict()
    key = "backbone.fpn.layer_blocks.2.0.weight"
    assert torch.equal(own[key], state[key])
    epsilon = 1e-5 if name in pretrained.ZERO_EPSILON else 0.0
    variance = "backbone.body.layer4.0.bn1.running_var"
    torch.testing.assert_close(own[variance] + epsilon, state[variance])
    classes = pretrained.coco_classes()
    assert classes[0] == "person" and classes[11] == "stop sign" and classes[-1] == "toothbrush"
    if detector.family == "faster-rcnn":
        row = own["roi_heads.box_predictor.cls_score.weight"][12]
        assert torch.equal(row, state["roi_heads.box_predictor.cls_score.weight"][13])
    else:  # "stop sign" is id 13 in COCO and the twelfth class
        rows = own["head.classification_head.cls_logits.bias"].unflatten(0, (-1, 80))[:, 11]
        theirs = state["head.classification_head.cls_logits.bias"].unflatten(0, (-1, 91))
        assert torch.equal(rows, theirs[:, 13])


def test_coco_weights_leave_the_class_layer_of_another_class_set_alone(monkeypatch):
    state = published("retinanet_resnet50_fpn", monkeypatch)
    config = pretrained.CATALOGUE["retinanet_resnet50_fpn"]
    detector = build_detector(config, 3)
    before = detector.model.head.classification_head.cls_logits.weight.clone()
    load_weights(detector)
    assert torch.equal(detector.model.head.classification_head.cls_logits.weight, before)
    key = "head.regression_head.bbox_reg.weight"
    assert torch.equal(detector.model.state_dict()[key], state[key])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(weights="coco"), "none for retinanet"),
        (dict(weights="imagenet"), "none for resnet10"),
        (dict(weights="mars"), "--weights is 'mars'"),
    ],
)
def test_missing_weights_are_a_user_error(options, match):
    with pytest.raises(UserError, match=match):
        load_weights(tiny(**options))
    with pytest.raises(UserError, match="choose one of"):
        from_torchvision("resnet50")


def test_imagenet_weights_fill_the_whole_trunk(monkeypatch):
    for name, source in (("resnet18", resnet18), ("mobilenet-v3", mobilenet_v3_large)):
        state = source(weights=None).state_dict()
        monkeypatch.setattr(pretrained, "_fetch", lambda weights, state=state: state)
        options = dict(backbone=name, backbone_width=1.0, backbone_norm="frozen", weights="imagenet")
        detector = tiny(**options)
        load_weights(detector)
        body = detector.model.backbone.body.state_dict()
        prefix = "features." if name == "mobilenet-v3" else ""
        assert all(torch.equal(value, state[prefix + key]) for key, value in body.items())


def test_no_weights_means_no_download(monkeypatch):
    monkeypatch.setattr(pretrained, "_fetch", lambda weights: pytest.fail("tried to download"))
    load_weights(tiny())


@pytest.mark.parametrize("family", ["retinanet", "fcos", "faster-rcnn"])
def test_losses_equal_those_of_torchvision(family):
    """The parts run one by one and the forward of torchvision give equal losses for the same random state."""
    detector = tiny(family, backbone_norm="frozen", head_norm="none").train()
    plain = torchvision_model(detector).train()
    plain.transform.min_size = (64,)
    images, targets = batch()
    found = []
    for run in (lambda: detector(images, targets, size=64).losses, lambda: plain(images, targets)):
        torch.manual_seed(0)
        found.append(sorted(loss.item() for loss in run().values()))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
