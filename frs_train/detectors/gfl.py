"""GFL, a one-stage detector whose class scores predict the IoU of the box, and box sides are distributions.

The head is implemented here; torchvision's RetinaNet supplies the backbone handling and the post-processing.
The losses and the assignment of boxes to locations are in `gfl_loss`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead
from torchvision.ops import generalized_box_iou_loss

from frs_train import distributed
from frs_train.config import DetectorConfig
from frs_train.detectors import gfl_loss
from frs_train.detectors.backbone import build_backbone, group_norm
from frs_train.detectors.base import DenseDetector, Target

MAX_DISTANCE = 16  # R: box sides are distributions over 0..R strides from the location
STRIDES_PER_ANCHOR = 8  # side of an anchor in strides; anchors serve only to assign objects to locations
BOX_WEIGHT = 2.0
DISTRIBUTION_WEIGHT = 0.25


class GFLDetector(DenseDetector):
    family = "gfl"

    def locate(self, feats):
        maps = self.model.head.regression_head.maps(feats)
        return [level.contiguous(memory_format=torch.channels_last) for level in maps]

    def edge_signature(self):
        """Distances are measured in anchors (see `DistributionCoder.unit`)."""
        return self.family, MAX_DISTANCE, tuple(self.anchor_generator.sizes)

    def losses(self, targets, head, anchors, sizes):
        return self.model.compute_loss(targets, head, anchors, [height * width for height, width in sizes])


class DistributionCoder:
    """The box coder of RetinaNet's post-processing, for distributions of distances."""

    def decode_single(self, logits: Tensor, anchors: Tensor) -> Tensor:
        """Distribution logits [N, 4 * (R + 1)] at anchors [N, 4] -> boxes [N, 4] xyxy."""
        distances = gfl_loss.expected_distance(logits.unflatten(1, (4, -1))) * self.unit(anchors)
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        return torch.cat([centres - distances[:, :2], centres + distances[:, 2:]], dim=1)

    def encode_single(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Distances [N, 4] (left, top, right, bottom) of the sides of boxes from the centres of their
        anchors, in strides, clamped to 0..R."""
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        distances = torch.cat([centres - boxes[:, :2], boxes[:, 2:] - centres], dim=1)
        return (distances / self.unit(anchors)).clamp(0, MAX_DISTANCE)

    @staticmethod
    def unit(anchors: Tensor) -> Tensor:
        """The stride at each anchor in pixels: [N, 1]."""
        return (anchors[:, 2:3] - anchors[:, 0:1]) / STRIDES_PER_ANCHOR


class DistributionHead(nn.Module):
    """The regression tower: logits of four distances at each location, multiplied by a learnt factor per
    level."""

    def __init__(self, channels: int, num_convs: int, num_levels: int):
        super().__init__()
        tower: list[nn.Module] = []
        for _ in range(num_convs):
            tower += [nn.Conv2d(channels, channels, 3, padding=1), group_norm(channels), nn.ReLU()]
        self.conv = nn.Sequential(*tower)
        self.distances = nn.Conv2d(channels, 4 * (MAX_DISTANCE + 1), 3, padding=1)
        self.scales = nn.Parameter(torch.ones(num_levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, feats: list[Tensor]) -> Tensor:
        """list of [B, D, H, W] -> [B, sum(H*W), 4 * (R + 1)]."""
        return torch.cat([level.flatten(2).transpose(1, 2) for level in self.maps(feats)], dim=1)

    def maps(self, feats: list[Tensor]) -> list[Tensor]:
        """list of [B, D, H, W] -> list of [B, 4 * (R + 1), H, W]."""
        return [
            self.distances(self.conv(feat)) * scale for feat, scale in zip(feats, self.scales, strict=True)
        ]


class GFLHead(nn.Module):
    """Both towers; the outputs have the names and shapes of torchvision's heads."""

    def __init__(self, channels: int, num_classes: int, num_convs: int, num_levels: int):
        super().__init__()
        self.classification_head = FCOSClassificationHead(
            channels, 1, num_classes, num_convs, norm_layer=group_norm
        )
        self.regression_head = DistributionHead(channels, num_convs, num_levels)

    def forward(self, feats: list[Tensor]) -> dict[str, Tensor]:
        return {"cls_logits": self.classification_head(feats), "bbox_regression": self.regression_head(feats)}


class GFL(RetinaNet):
    """torchvision's RetinaNet with a GFL head."""

    def compute_loss(
        self, targets: list[Target], head: dict[str, Tensor], anchors: list[Tensor], counts: list[int]
    ) -> dict[str, Tensor]:
        """Quality focal loss, GIoU loss and distribution focal loss of a batch (labels 0..K-1).

        The quality focal loss is divided by the number of positive locations. In the box losses, the weight
        of a positive location is its highest class score, and they are divided by the sum of these weights.
        Both divisors are means over all processes, so that several processes train like one with the whole
        batch.
        """
        logits = head["cls_logits"].float()
        owners = [
            gfl_loss.atss_assign(a, counts, target["boxes"])
            for a, target in zip(anchors, targets, strict=True)
        ]
        positive = torch.stack(owners) >= 0
        boxes = torch.cat([t["boxes"][o[o >= 0]] for t, o in zip(targets, owners, strict=True)])
        labels = torch.cat([t["labels"][o[o >= 0]] for t, o in zip(targets, owners, strict=True)])
        places = torch.stack(anchors)[positive]
        distances = head["bbox_regression"].float()[positive]
        predicted = self.box_coder.decode_single(distances, places)
        weights = logits.detach().sigmoid().amax(-1)[positive]
        quality = torch.zeros_like(logits)
        where = positive.nonzero(as_tuple=True)
        quality[where[0], where[1], labels] = gfl_loss.pairwise_iou(predicted.detach(), boxes)
        sides = self.box_coder.encode_single(boxes, places)
        count, total = distributed.mean(torch.stack([positive.sum().float(), weights.sum()]))
        total = total.clamp(min=1e-6)
        giou = generalized_box_iou_loss(predicted, boxes)
        spread = gfl_loss.distribution_focal_loss(distances.unflatten(1, (4, -1)), sides).mean(1)
        return {
            "classification": gfl_loss.quality_focal_loss(logits, quality).sum() / count.clamp(min=1),
            "bbox_regression": BOX_WEIGHT * (weights * giou).sum() / total,
            "bbox_distribution": DISTRIBUTION_WEIGHT * (weights * spread).sum() / total,
        }


def build(config: DetectorConfig, num_classes: int) -> GFLDetector:
    """A GFL with random weights. Anchors are squares with sides of twice `anchor_size`: 8 strides by default,
    as in the paper."""
    backbone = build_backbone(config)
    sizes = tuple((2 * config.anchor_size * p,) for p in (1, 2, 4, 8, 16))
    model = GFL(
        backbone,
        num_classes,
        max_size=config.max_size,
        anchor_generator=AnchorGenerator(sizes, ((1.0,),) * len(sizes)),
        head=GFLHead(backbone.out_channels, num_classes, config.head_convs, len(sizes)),
        score_thresh=config.score_threshold,
        nms_thresh=config.nms_threshold,
        detections_per_img=config.detections_per_image,
    )
    model.box_coder = DistributionCoder()
    return GFLDetector(config, num_classes, model, num_anchors=1)
