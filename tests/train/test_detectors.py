"""Every family, as teacher and as student: one head run, losses that fall, labels from 1, torchvision parts."""

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from frs_kernels import reference
from frs_train.config import DetectorConfig
from frs_train.detectors import (
    build_detector,
    compatibility,
    from_torchvision,
    load_weights,
    pretrained,
    torchvision_model,
    torchvision_state_dict,
)
from frs_train.detectors.backbone import BACKBONES, group_norm
from frs_train.detectors.base import anchors_of
from frs_train.errors import UserError

FAMILIES = ("retinanet", "fcos", "gfl", "faster-rcnn")
TINY = dict(
    backbone="resnet10",
    backbone_width=0.25,
    backbone_norm="group",
    head_norm="group",
    fpn_width=16,
    head_convs=1,
    min_size=(64,),
    max_size=128,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def tiny(family="retinanet", num_classes=3, **options):
    return build_detector(DetectorConfig(family=family, **{**TINY, **options}), num_classes)


def batch():
    images = [torch.rand(3, 64, 64), torch.rand(3, 60, 90)]
    targets = [
        {"boxes": torch.tensor([[4.0, 6, 40, 44], [30, 20, 62, 60]]), "labels": torch.tensor([1, 3])},
        {"boxes": torch.tensor([[10.0, 10, 50, 58]]), "labels": torch.tensor([2])},
    ]
    return images, targets


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
def test_teacher_logits_are_the_students_logits(family):
    """Without targets only the classification branch runs; its logits and layout are those of training."""
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


@pytest.mark.parametrize("family", FAMILIES)
def test_overfits_one_batch_and_finds_its_boxes(family):
    detector = tiny(family, fpn_width=32, anchor_size=16)
    images, targets = batch()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=4e-3)
    history = []
    for _ in range(20 if family == "faster-rcnn" else 60):
        loss = sum(detector(images, targets, size=64).losses.values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
        history.append(loss.item())
    assert sum(history[-5:]) < 0.5 * sum(history[:5])
    found = detector.eval().detect(images)[1]
    best = found["scores"].argmax()
    assert found["labels"][best] == 2
    overlap = box_iou(found["boxes"][best, None], targets[1]["boxes"]).item()
    assert overlap > 0.5


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
    """Labels are 1..K outside, whatever the family counts inside: the last class must be in range."""
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


@pytest.mark.parametrize("backbone", BACKBONES)
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
        ({"backbone_norm": "x"}, "x"),
    ],
)
def test_unknown_options_are_named(wrong, match):
    with pytest.raises(ValueError, match=match):
        build_detector(DetectorConfig(**{**TINY, **wrong}), 2)


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


def test_same_architecture_distils_everything():
    found = compatibility(tiny(fpn_width=32), tiny(fpn_width=16))
    assert found.head_loss and found.message is None
    assert found.levels == [(i, i) for i in range(5)]


@pytest.mark.parametrize(
    ("teacher", "student", "why"),
    [
        (dict(num_classes=3), dict(num_classes=2), "3 classes"),
        (dict(anchor_size=16), dict(anchor_size=32), "anchors"),
        (dict(family="fcos"), dict(family="gfl"), "fcos"),
    ],
)
def test_unlike_heads_leave_the_feature_loss(teacher, student, why):
    found = compatibility(tiny(**teacher), tiny(**student))
    assert not found.head_loss and len(found.levels) == 5
    assert why in found.message and "head loss is off" in found.message


def test_class_names_decide_where_channels_agree():
    assert "different classes" in compatibility(tiny(), tiny(), same_classes=False).message
    rpn = tiny("faster-rcnn"), tiny("faster-rcnn", num_classes=7)
    assert compatibility(*rpn, same_classes=False).head_loss, "objectness knows no classes"


def test_pyramids_of_other_strides_share_what_they_can():
    found = compatibility(tiny("faster-rcnn"), tiny("retinanet"))
    assert found.levels == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert "8, 16, 32, 64" in found.message
    teacher = tiny()
    teacher.strides = (2, 3)
    with pytest.raises(UserError, match="none is shared"):
        compatibility(teacher, tiny())


def published(name, monkeypatch):
    """What torchvision publishes under `name`, with random numbers: 91 classes, batch norm without epsilon."""
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
        assert torch.equal(
            rows, state["head.classification_head.cls_logits.bias"].unflatten(0, (-1, 91))[:, 13]
        )


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
        (dict(weights="mars"), "mars is unknown"),
    ],
)
def test_weights_that_do_not_exist_are_refused_in_words(options, match):
    with pytest.raises(UserError, match=match):
        load_weights(tiny(**options))
    with pytest.raises(UserError, match="choose one of"):
        from_torchvision("resnet50")


def test_imagenet_weights_fill_the_whole_trunk(monkeypatch):
    from torchvision.models import mobilenet_v3_large, resnet18

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
