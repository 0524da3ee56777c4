"""Lists of FPN levels: what the public functions take, and how a detector's flat logits become one.

A *level* is one scale of a feature pyramid: features ``[B, D, H, W]``, logits ``[B, K, H, W]`` (or both with
flattened locations, ``[B, D, L]``), and a mask with one factor for each of its B x H x W locations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Levels = Tensor | Sequence[Tensor]


def as_list(levels: Levels) -> list[Tensor]:
    """The levels as a list; a tensor is one level."""
    return [levels] if isinstance(levels, Tensor) else list(levels)


def split_levels(flat_logits: Tensor, sizes: Sequence[Sequence[int]], num_anchors: int) -> list[Tensor]:
    """Splits torchvision's flat logits into one view per level, without a copy.

    Args:
        flat_logits: ``[B, sum(H_l * W_l * num_anchors), K]``, as torchvision's heads return them: level after
            level, locations in row-major order, the anchors of one location adjacent.
        sizes: ``(H_l, W_l)`` of every level.
        num_anchors: anchors per location (1 for an anchor-free head).

    Returns:
        one channel-major view ``[B, num_anchors * K, H_l, W_l]`` per level.

    Raises:
        ValueError: if the sizes do not add up to ``flat_logits.shape[1]``.
    """
    if flat_logits.dim() != 3:
        raise ValueError(f"flat_logits must be [B, sum(H*W*A), K], got {list(flat_logits.shape)}")
    anchors = [height * width * num_anchors for height, width in sizes]
    if sum(anchors) != flat_logits.shape[1]:
        raise ValueError(
            f"flat_logits {list(flat_logits.shape)} has {flat_logits.shape[1]} anchors, but sizes "
            f"{list(sizes)} with num_anchors={num_anchors} need {sum(anchors)}"
        )
    batch, _, classes = flat_logits.shape
    views: list[Tensor] = []
    for level, (height, width) in zip(torch.split(flat_logits, anchors, dim=1), sizes, strict=True):
        grid = torch.unflatten(level, 1, (height, width, num_anchors)).flatten(3)
        views.append(grid.permute(0, 3, 1, 2).view(batch, num_anchors * classes, height, width))
    return views
