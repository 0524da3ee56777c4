"""RetinaNet of torchvision with any of the backbones and towers of any depth, width and normalization."""

from __future__ import annotations

from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from frs_train.config import DetectorConfig
from frs_train.detectors.backbone import build_backbone, group_norm
from frs_train.detectors.base import DenseDetector

NUM_ANCHORS = 9  # three scales, three aspect ratios
PYRAMID = (1, 2, 4, 8, 16)


class RetinaNetDetector(DenseDetector):
    family = "retinanet"


def build(config: DetectorConfig, num_classes: int) -> RetinaNetDetector:
    """A RetinaNet with random weights."""
    second_edition = config.weights == "coco" and config.head_norm == "group"  # torchvision's RetinaNet v2
    backbone = build_backbone(config, extra="c5" if second_edition else "p5")
    sizes = tuple(tuple(int(config.anchor_size * p * 2 ** (k / 3)) for k in range(3)) for p in PYRAMID)
    norm = group_norm if config.head_norm == "group" else None
    head = RetinaNetHead(backbone.out_channels, NUM_ANCHORS, num_classes, norm_layer=norm)
    if second_edition:
        head.regression_head._loss_type = "giou"
    for tower in (head.classification_head, head.regression_head):
        tower.conv = tower.conv[: config.head_convs]
    model = RetinaNet(
        backbone,
        num_classes,
        max_size=config.max_size,
        anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        head=head,
        score_thresh=config.score_threshold,
        nms_thresh=config.nms_threshold,
        detections_per_img=config.detections_per_image,
    )
    return RetinaNetDetector(config, num_classes, model, NUM_ANCHORS)
