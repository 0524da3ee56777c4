"""Faster R-CNN of torchvision with any of the backbones. The objectness of the RPN is what is distilled."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign

from frs_train.config import DetectorConfig
from frs_train.detectors.backbone import build_backbone
from frs_train.detectors.base import Detector, Target, anchors_of

POOLED = 7  # side of a pooled region
REGION_LEVELS = ["0", "1", "2", "3"]  # P2..P5; P6 serves the RPN only


class FasterRCNNDetector(Detector):
    family = "faster-rcnn"
    strides = (4, 8, 16, 32, 64)

    @property
    def logit_channels(self) -> int:
        return self.num_anchors  # objectness: one logit per anchor, independent of the classes

    @property
    def anchor_generator(self):
        return self.model.rpn.anchor_generator

    def head_signature(self) -> tuple:
        family, _, sizes, ratios = super().head_signature()
        return family, sizes, ratios

    def classify(self, feat: Tensor) -> Tensor:
        head = self.model.rpn.head
        return head.cls_logits(head.conv(feat))

    def train_step(self, batch, targets, outputs):
        feats = outputs.feats
        outputs.cls_logits, proposals, losses = self.propose(batch, feats, targets)
        _, box_losses = self.model.roi_heads(self.named(feats), proposals, batch.image_sizes, targets)
        outputs.losses = losses | box_losses

    def postprocess(self, batch, feats):
        with torch.autocast(feats[0].device.type, enabled=False):  # bfloat16 would round the boxes
            feats = [feat.float() for feat in feats]
            _, proposals, _ = self.propose(batch, feats, None)
            detections, _ = self.model.roi_heads(self.named(feats), proposals, batch.image_sizes)
        return detections

    def propose(
        self, batch, feats: list[Tensor], targets: list[Target] | None
    ) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
        """Runs the RPN, its head once: objectness [B, A, H, W] per level, boxes per image, and losses.

        The steps are those of `RegionProposalNetwork.forward`, which does not return the objectness.
        """
        rpn = self.model.rpn
        objectness, deltas = rpn.head(feats)
        anchors = anchors_of(rpn.anchor_generator, batch, feats)
        counts = [level[0].numel() for level in objectness]
        flat_objectness, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        flat_objectness, flat_deltas = flat_objectness.float(), flat_deltas.float()
        boxes = rpn.box_coder.decode(flat_deltas.detach(), anchors).view(len(anchors), -1, 4)
        proposals, _ = rpn.filter_proposals(boxes, flat_objectness, batch.image_sizes, counts)
        if targets is None:
            return objectness, proposals, {}
        labels, matched = rpn.assign_targets_to_anchors(anchors, targets)
        regression = rpn.box_coder.encode(matched, anchors)
        names = ("rpn_objectness", "rpn_box_reg")
        losses = rpn.compute_loss(flat_objectness, flat_deltas, labels, regression)
        return objectness, proposals, dict(zip(names, losses, strict=True))

    def named(self, feats: list[Tensor]) -> OrderedDict[str, Tensor]:
        """The pyramid under the level names that region pooling expects."""
        return OrderedDict(zip([*REGION_LEVELS, "pool"], feats, strict=True))


def build(config: DetectorConfig, num_classes: int) -> FasterRCNNDetector:
    """A Faster R-CNN with random weights. The RPN has one convolution, the box head two layers of width 4 *
    fpn_width (1024 for 256, as in torchvision); `head_convs` and `head_norm` do not apply."""
    backbone = build_backbone(config, first_level=2)
    sizes = tuple((config.anchor_size * p,) for p in (1, 2, 4, 8, 16))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    hidden = 4 * config.fpn_width
    model = FasterRCNN(
        backbone,
        max_size=config.max_size,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(REGION_LEVELS, POOLED, sampling_ratio=2),
        box_head=TwoMLPHead(config.fpn_width * POOLED**2, hidden),
        box_predictor=FastRCNNPredictor(hidden, num_classes + 1),
        box_score_thresh=config.score_threshold,
        box_nms_thresh=config.nms_threshold,
        box_detections_per_img=config.detections_per_image,
    )
    return FasterRCNNDetector(config, num_classes, model, anchors.num_anchors_per_location()[0])
