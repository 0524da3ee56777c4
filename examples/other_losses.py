"""Other published distillation losses as calls of the same two primitives.

    python examples/other_losses.py

Each function takes lists of levels (``[B, C, H, W]`` features or logits) and the other inputs of its method,
and returns a 0-d loss that is differentiable in the student. No gradient flows into masks.
docs/integrations.md names the parts of each method that are not covered (relations, adversaries, box losses).
"""

import math

import torch
from torch import Tensor

import frs_kernels as frs

Levels = list[Tensor]


def box_masks(boxes: list[Tensor], sizes, image_size) -> Levels:
    """One mask [B, H, W] per level: 1 at locations inside a ground-truth box, else 0.

    ``boxes`` has one [n, 4] per image, x1 y1 x2 y2 in pixels; ``sizes`` are (H, W) of the levels.
    """
    masks = []
    for height, width in sizes:
        mask = torch.zeros(len(boxes), height, width)
        locations_per_pixel = torch.tensor([width / image_size[1], height / image_size[0]]).repeat(2)
        for mask_of_image, corners in zip(mask, boxes, strict=True):
            for x1, y1, x2, y2 in (corners * locations_per_pixel).tolist():
                mask_of_image[int(y1) : math.ceil(y2), int(x1) : math.ceil(x2)] = 1
        masks.append(mask)
    return masks


def whole_map_l2(student: Levels, teacher: Levels) -> Tensor:
    """FitNets (2015): the mean squared error over all locations, added over levels."""
    ones = [torch.ones_like(x[:, 0]) for x in student]
    return frs.weighted_mse(student, teacher, ones, normalizer="numel")


def fgfi(student: Levels, teacher: Levels, near_objects: Levels) -> Tensor:
    """Fine-grained feature imitation (Wang 2019): squared error near objects, divided by 2 N_p per level."""
    return frs.weighted_mse(student, teacher, near_objects, normalizer="mask", scale=0.5)


def defeat(
    student: Levels, teacher: Levels, foreground: Levels, fg_weight: float, bg_weight: float
) -> Tensor:
    """DeFeat's feature loss (Guo 2021, eq. 3): foreground and background, each divided by its size."""
    sets = [foreground, [1 - mask for mask in foreground]]
    return frs.weighted_mse(
        student, teacher, mask_sets=sets, normalizer="mask", scale=[fg_weight / 2, bg_weight / 2]
    )


def defeat_released(
    student: Levels, teacher: Levels, foreground: Levels, fg_weight: float, bg_weight: float
) -> Tensor:
    """DeFeat as its code computes it: also divided by the channels and by the number of levels.

    The weights in its configurations belong to this form.
    """
    sets = [foreground, [1 - mask for mask in foreground]]
    scales = [weight / (2 * len(student)) for weight in (fg_weight, bg_weight)]
    return frs.weighted_mse(student, teacher, mask_sets=sets, normalizer="mask_channels", scale=scales)


def fgd_attention(teacher: Levels, temperature: float = 0.5) -> tuple[Levels, Levels]:
    """FGD's attention (Yang 2022, eq. 5-6): H*W softmax of mean_c |F|, and C softmax of mean_hw |F|.

    The first is [B, H, W], the second [B, C] per level.
    """
    spatial, channel = [], []
    for feat in teacher:
        magnitude = feat.abs()
        over_locations = (magnitude.mean(1).flatten(1) / temperature).softmax(1) * magnitude[0, 0].numel()
        spatial.append(over_locations.view_as(magnitude[:, 0]))
        channel.append((magnitude.mean((2, 3)) / temperature).softmax(1) * magnitude.shape[1])
    return spatial, channel


def fgd(
    student: Levels, teacher: Levels, foreground: Levels, background: Levels, alpha: float, beta: float
) -> Tensor:
    """FGD's focal feature loss (eq. 8), per image: masks times spatial attention, and channel attention.

    ``foreground`` is 1 / (box height x box width) inside boxes, ``background`` 1 / (its size) outside.
    """
    spatial, channel = fgd_attention(teacher)
    sets = [_product(foreground, spatial), _product(background, spatial)]
    return frs.weighted_mse(
        student, teacher, mask_sets=sets, channel_weights=channel, normalizer="batch", scale=[alpha, beta]
    )


def pgd_attention(
    teacher: Levels, spatial_temperature: float = 0.5, channel_temperature: float = 0.5
) -> tuple[Levels, Levels]:
    """PGD's attention (Yang 2022): FGD's spatial attention, and channel attention at each location.

    The first is [B, H, W], the second [B, C, H, W] per level.
    """
    spatial, _ = fgd_attention(teacher, spatial_temperature)
    return spatial, [(feat.abs() / channel_temperature).softmax(1) * feat.shape[1] for feat in teacher]


def pgd(
    student: Levels, teacher: Levels, foreground: Levels, background: Levels, alpha: float, beta: float
) -> Tensor:
    """PGD's feature loss for one head (Yang 2022), per image.

    Its channel attention differs between locations and multiplies the squared error, so both features are
    multiplied by the square root. ``foreground`` is the quality score divided by the number of locations that
    have one, ``background`` 1 / (its size) outside.
    """
    spatial, channel = pgd_attention(teacher)
    sets = [_product(foreground, spatial), _product(background, spatial)]
    roots = [attention.sqrt() for attention in channel]
    x, y = _product(student, roots), _product(teacher, roots)
    return frs.weighted_mse(x, y, mask_sets=sets, normalizer="batch", scale=[alpha, beta])


def quality_focal(
    student: Levels,
    teacher: Levels,
    beta: float = 1.0,
    normalizer: float | Tensor = 1.0,
    label_weights: Levels | None = None,
) -> Tensor:
    """CrossKD (Wang 2024), BCKD (Yang 2023): sum of |p - q|^beta BCE(s, q), divided by ``normalizer``.

    ``label_weights``, one [B, H, W] per level, are 0 in the padding and at ignored anchors, else 1.
    """
    masks = label_weights or [torch.ones_like(s[:, 0]) for s in student]
    return frs.weighted_bce(student, teacher, masks, beta=beta, normalizer=normalizer)


def _product(levels: Levels, others: Levels) -> Levels:
    return [level * other for level, other in zip(levels, others, strict=True)]


def main() -> None:
    from tiny_data import images_and_boxes

    torch.manual_seed(0)
    sizes, image_size = [(8, 8), (4, 4), (2, 2)], (64, 64)
    student = [torch.randn(2, 16, *size, requires_grad=True) for size in sizes]
    teacher = [torch.randn(2, 16, *size) for size in sizes]
    foreground = box_masks([boxes for _, boxes, _ in images_and_boxes(2)], sizes, image_size)
    background = [(1 - m) / (1 - m).sum((1, 2), keepdim=True).clamp(min=1) for m in foreground]
    losses = {
        "whole map": whole_map_l2(student, teacher),
        "FGFI": fgfi(student, teacher, foreground),
        "DeFeat": defeat(student, teacher, foreground, 0.5, 0.05),
        "DeFeat's code": defeat_released(student, teacher, foreground, 3, 12),
        "FGD": fgd(student, teacher, foreground, background, 1e-3, 5e-4),
        "PGD": pgd(student, teacher, foreground, background, 1e-3, 5e-4),
        "quality focal": quality_focal(student, teacher),
    }
    for name, loss in losses.items():
        print(f"{name:14} {loss.item():10.4f}")
    sum(losses.values()).backward()


if __name__ == "__main__":
    main()
