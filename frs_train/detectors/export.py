"""The conversion of a detector to a plain torchvision model.

A one-stage detector of this package has one logit per object class and none for the background. torchvision
counts object classes from 1 and reserves row 0 of the classification layer for the background. Exported
weights have this row, with a logit so low that it is never detected.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from frs_train.detectors.base import DenseDetector, Detector
from frs_train.detectors.build import build_detector

NEVER = -20.0  # the background's logit: a score of 2e-9
CLASS_LAYER = "head.classification_head.cls_logits"


def torchvision_state_dict(detector: Detector) -> dict[str, Tensor]:
    """The weights, for torchvision's model of the same architecture; it loads them with `strict=True`.

    For example, those of a RetinaNet with ResNet-50 at full width and K classes fit
    `retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=K + 1)`, whose labels are 1..K.

    Raises:
        ValueError: torchvision does not have the family (gfl).
    """
    if detector.family == "gfl":
        raise ValueError(
            "torchvision has no GFL; export a retinanet, fcos or faster-rcnn, or keep the checkpoint"
        )
    state = detector.model.state_dict()
    if isinstance(detector, DenseDetector):
        rows = [-1, *range(detector.num_classes)]
        for part, blank in (("weight", 0.0), ("bias", NEVER)):
            key = f"{CLASS_LAYER}.{part}"
            state[key] = pick_rows(state[key], detector.num_anchors, rows, blank)
    for name, module in detector.model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):  # so that BatchNorm2d can load the state
            state[f"{name}.num_batches_tracked"] = torch.tensor(0)
    return {key: value.detach().clone() for key, value in state.items()}


def torchvision_model(detector: Detector) -> nn.Module:
    """A plain torchvision model with the same detections, in evaluation mode on the CPU."""
    background = 1 if isinstance(detector, DenseDetector) else 0  # Faster R-CNN counts it itself
    model = build_detector(detector.config, detector.num_classes + background).model
    model.load_state_dict(torchvision_state_dict(detector), strict=True)
    model.transform.min_size = (detector.config.min_size[-1],)
    return model.eval()


def pick_rows(rows: Tensor, groups: int, index: list[int], blank: float = 0.0) -> Tensor:
    """Rows `index` of each group: [groups * K, ...] -> [groups * len(index), ...]. Index -1 gives a row
    filled with `blank`."""
    grouped = rows.unflatten(0, (groups, -1))
    empty = torch.full_like(grouped[:, :1], blank)
    picked = [grouped[:, i : i + 1] if i >= 0 else empty for i in index]
    return torch.cat(picked, dim=1).flatten(0, 1)
