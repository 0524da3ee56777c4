"""From a detector to the plain torchvision model that it wraps.

The dense families here have one logit an object class and no background; torchvision numbers its labels from
1 and keeps a row 0 for the background. Exported weights have that row, with a logit that never fires.
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
    """Weights that torchvision's constructor of the same architecture loads with `strict=True`.

    For example, a RetinaNet on ResNet-50 of K classes at full width fits
    `retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=K + 1)`; its labels are then
    1..K.

    Raises:
        ValueError: torchvision has no such family (gfl).
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
        if isinstance(module, FrozenBatchNorm2d):  # which BatchNorm2d must be able to load
            state[f"{name}.num_batches_tracked"] = torch.tensor(0)
    return {key: value.detach().clone() for key, value in state.items()}


def torchvision_model(detector: Detector) -> nn.Module:
    """A plain torchvision model, in evaluation mode on the CPU, with the same detections."""
    background = 1 if isinstance(detector, DenseDetector) else 0  # Faster R-CNN adds its own
    model = build_detector(detector.config, detector.num_classes + background).model
    model.load_state_dict(torchvision_state_dict(detector), strict=True)
    model.transform.min_size = (detector.config.min_size[-1],)
    return model.eval()


def pick_rows(rows: Tensor, groups: int, index: list[int], blank: float = 0.0) -> Tensor:
    """Rows `index` of each group: [groups * K, ...] -> [groups * len(index), ...]; -1 makes a row of
    `blank`."""
    grouped = rows.unflatten(0, (groups, -1))
    empty = torch.full_like(grouped[:, :1], blank)
    picked = [grouped[:, i : i + 1] if i >= 0 else empty for i in index]
    return torch.cat(picked, dim=1).flatten(0, 1)
