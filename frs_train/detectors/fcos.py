"""FCOS of torchvision with any of the backbones and towers of any depth and width."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead

from frs_train import distributed
from frs_train.config import DetectorConfig
from frs_train.detectors.backbone import build_backbone, group_norm
from frs_train.detectors.base import DenseDetector


class FCOSDetector(DenseDetector):
    family = "fcos"

    def class_scores(self, head):
        return (super().class_scores(head) * head["bbox_ctrness"].sigmoid()).sqrt()

    def decode(self, regression, anchors):
        return self.model.box_coder.decode(regression, anchors)

    def losses(self, targets, head, anchors, sizes):
        return self.model.compute_loss(targets, head, anchors, [height * width for height, width in sizes])


class Head(FCOSHead):
    """torchvision's head with towers of any depth and width."""

    def __init__(self, channels: int, num_classes: int, num_convs: int):
        nn.Module.__init__(self)
        self.box_coder = BoxLinearCoder(normalize_by_size=True)
        self.classification_head = FCOSClassificationHead(
            channels, 1, num_classes, num_convs, norm_layer=group_norm
        )
        self.regression_head = FCOSRegressionHead(channels, 1, num_convs, norm_layer=group_norm)

    def compute_loss(self, targets, head_outputs, anchors, matched_idxs):
        """torchvision's losses, divided by the mean number of positive locations over all processes instead
        of the number in this one, so that several processes train like one with the whole batch."""
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        count = torch.stack([(matched >= 0).sum() for matched in matched_idxs]).sum().float()
        factor = count.clamp(min=1) / distributed.mean(count.clone()).clamp(min=1)
        return {name: loss * factor for name, loss in losses.items()}


def build(config: DetectorConfig, num_classes: int) -> FCOSDetector:
    """An FCOS with random weights. A level learns objects of 1 to 2 times its anchor side: up to 64 pixels at
    stride 8 for the default `anchor_size`, as in the paper."""
    backbone = build_backbone(config)
    cells = tuple((config.anchor_size // 4 * p,) for p in (1, 2, 4, 8, 16))  # torchvision: the strides
    model = FCOS(
        backbone,
        num_classes,
        max_size=config.max_size,
        anchor_generator=AnchorGenerator(cells, ((1.0,),) * len(cells)),
        head=Head(backbone.out_channels, num_classes, config.head_convs),
        score_thresh=config.score_threshold,
        nms_thresh=config.nms_threshold,
        detections_per_img=config.detections_per_image,
    )
    return FCOSDetector(config, num_classes, model, num_anchors=1)
