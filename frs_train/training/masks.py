"""The masks of a distillation other than the FRS mask, and the divisors that follow from masks."""

from __future__ import annotations

import torch
from torch import Tensor

from frs_train import distributed
from frs_train.detectors import Outputs, Target

MASK_SUMS = ("mask", "mask_all_levels")
"""The normalizers whose divisors depend on the masks alone, and so can be those of all processes."""


def box_masks(
    taught: Outputs, targets: list[Target], images: list[Tensor], strides: list[int]
) -> list[Tensor]:
    """One float32 mask [B, H, W] per level: 1 if the centre of the location is in a box, else 0."""
    height, width = taught.padded_size
    masks = []
    for stride in strides:
        ys = (torch.arange(-(-height // stride), device=images[0].device) + 0.5) * stride
        xs = (torch.arange(-(-width // stride), device=images[0].device) + 0.5) * stride
        level = []
        for image, target, (h, w) in zip(images, targets, taught.image_sizes, strict=True):
            x1, y1, x2, y2 = (target["boxes"] * target["boxes"].new_tensor(_ratio(image, h, w))).unbind(1)
            in_y = (ys >= y1[:, None]) & (ys < y2[:, None])
            in_x = (xs >= x1[:, None]) & (xs < x2[:, None])
            level.append((in_y[:, :, None] & in_x[:, None, :]).any(0).float())
        masks.append(torch.stack(level))
    return masks


def _ratio(image: Tensor, height: int, width: int) -> list[float]:
    return [width / image.shape[-1], height / image.shape[-2]] * 2


def mask_sums(masks: list[Tensor], normalizer: str) -> list[Tensor]:
    """The divisor of each level by a normalizer of `MASK_SUMS`, as a mean over all processes.

    DDP averages the gradients of the processes. With these divisors the average is the gradient of one
    process with the whole batch.
    """
    sums = distributed.mean(torch.stack([mask.sum() for mask in masks]))
    return list((sums.sum().expand_as(sums) if normalizer == "mask_all_levels" else sums).unbind())


def normalized(masks: list[Tensor], normalizer: str) -> list[Tensor]:
    """The masks divided by `mask_sums`; 0 where the divisor is 0."""
    pairs = zip(masks, mask_sums(masks, normalizer), strict=True)
    return [torch.where(total > 0, mask / total, 0.0) for mask, total in pairs]
