"""The losses of GFL and its assignment of boxes to locations, as functions.

Sources: Li et al., "Generalized Focal Loss", NeurIPS 2020, arXiv 2006.04388 (quality and distribution focal
loss); Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection", CVPR 2020, arXiv
1912.02424 (ATSS).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou


def quality_focal_loss(logits: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """|sigmoid(z) - y|^beta * BCE(sigmoid(z), y), elementwise. The quality y is the IoU of the predicted box
    in the channel of its class, and 0 elsewhere."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (logits.sigmoid() - quality).abs().pow(beta) * cross_entropy


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy with the two integers around the target, each weighted by its nearness to the target.

    Args:
        logits: [..., R + 1] over the distances 0..R.
        target: [...] distances in 0..R.
    """
    lower = target.floor().long().clamp(0, logits.shape[-1] - 2)
    share = target - lower  # weight of the upper integer
    log_p = logits.log_softmax(-1)
    at_lower = log_p.gather(-1, lower.unsqueeze(-1)).squeeze(-1)
    at_upper = log_p.gather(-1, lower.unsqueeze(-1) + 1).squeeze(-1)
    return -((1 - share) * at_lower + share * at_upper)


def expected_distance(logits: Tensor) -> Tensor:
    """Mean of the distribution softmax(logits) over the distances 0..R: [..., R + 1] -> [...]."""
    distances = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    return (logits.softmax(-1) * distances).sum(-1)  # a matrix product would run in bfloat16 under autocast


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of box i of `a` with box i of `b`: [N, 4] xyxy, [N, 4] -> [N]."""
    overlap = (torch.min(a[:, 2:], b[:, 2:]) - torch.max(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    areas = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1)
    return overlap / (areas - overlap).clamp(min=1e-9)


def atss_assign(anchors: Tensor, counts: Sequence[int], boxes: Tensor, per_level: int = 9) -> Tensor:
    """Adaptive training sample selection (ATSS): the ground-truth box that each anchor learns.

    The candidates of a box are, on each level, the `per_level` anchors whose centres are nearest to the
    centre of the box. A candidate is positive if its centre is inside the box and its IoU is at least the
    mean plus the standard deviation of the IoUs of all candidates. An anchor that is positive for several
    boxes learns the one with the highest IoU.

    Args:
        anchors: [N, 4] xyxy, all anchors of a level before those of the next.
        counts: number of anchors per level.
        boxes: [M, 4] xyxy.

    Returns:
        [N] int64: index into `boxes`, or -1 for background.
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    iou = box_iou(anchors, boxes)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    distance = (centres[:, None] - ((boxes[:, :2] + boxes[:, 2:]) / 2)[None]).norm(dim=2)
    nearest, start = [], 0
    for count in counts:
        nearest.append(
            distance[start : start + count].topk(min(per_level, count), dim=0, largest=False).indices + start
        )
        start += count
    candidates = torch.cat(nearest)  # [C, M]
    candidate_iou = iou.gather(0, candidates)
    threshold = candidate_iou.mean(0) + candidate_iou.std(0)
    points = centres[candidates]  # [C, M, 2]
    inside = ((points > boxes[:, :2]) & (points < boxes[:, 2:])).all(2)
    positive = inside & (candidate_iou >= threshold)
    claims = torch.full_like(iou, -1.0).scatter(0, candidates, torch.where(positive, candidate_iou, -1.0))
    best, owner = claims.max(1)
    return torch.where(best >= 0, owner, -1)
