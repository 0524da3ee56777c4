"""Other published distillation losses as calls of the same two primitives.

    python examples/other_losses.py

Each function takes lists of levels (``[B, C, H, W]`` features or logits) and what its method needs beside
them, and returns a 0-d loss that is differentiable in the student. Gradients do not flow into maps. What each
method has beside this term (relations, adversaries, box losses) is its own business: docs/integrations.md.
"""

import torch
from torch import Tensor

import frs_kernels as frs

Levels = list[Tensor]


def box_maps(boxes: list[Tensor], sizes, image_size) -> Levels:
    """1 where a location lies in a ground-truth box, else 0: [B, H, W] a level.

    ``boxes`` holds, for each image, [n, 4] in pixels as x1 y1 x2 y2; ``sizes`` (H, W) of the levels.
    """
    maps = []
    for height, width in sizes:
        level = torch.zeros(len(boxes), height, width)
        scale = torch.tensor([width / image_size[1], height / image_size[0]]).repeat(2)
        for picture, corners in zip(level, boxes, strict=True):
            for x1, y1, x2, y2 in (corners * scale).tolist():
                picture[int(y1) : int(-(-y2 // 1)), int(x1) : int(-(-x2 // 1))] = 1
        maps.append(level)
    return maps


def whole_map_l2(student: Levels, teacher: Levels) -> Tensor:
    """FitNets (2015): the mean squared error of the whole map, added over levels."""
    ones = [torch.ones_like(x[:, 0]) for x in student]
    return frs.weighted_mse(student, teacher, ones, normalizer="numel")


def fgfi(student: Levels, teacher: Levels, near_objects: Levels) -> Tensor:
    """Fine-grained feature imitation (Wang 2019): squared error near objects, over 2 N_p of each level."""
    return frs.weighted_mse(student, teacher, near_objects, normalizer="mask", scale=0.5)


def defeat(
    student: Levels, teacher: Levels, foreground: Levels, fg_weight: float, bg_weight: float
) -> Tensor:
    """DeFeat (Guo 2021, eq. 3), its features: foreground and background, each over its own size, in one
    pass."""
    masks = [foreground, [1 - mask for mask in foreground]]
    return frs.weighted_mse(student, teacher, masks, normalizer="mask", scale=[fg_weight / 2, bg_weight / 2])


def defeat_released(
    student: Levels, teacher: Levels, foreground: Levels, fg_weight: float, bg_weight: float
) -> Tensor:
    """DeFeat as its code computes it: over the channels and the number of levels too.

    Weights of its configurations go with this one.
    """
    masks = [foreground, [1 - mask for mask in foreground]]
    shares = [weight / (2 * len(student)) for weight in (fg_weight, bg_weight)]
    return frs.weighted_mse(student, teacher, masks, normalizer="mask_channels", scale=shares)


def fgd_attention(teacher: Levels, temperature: float = 0.5) -> tuple[Levels, Levels]:
    """FGD's attention (Yang 2022, eq. 5-6): H*W softmax of mean_c |F|, and C softmax of mean_hw |F|."""
    spatial, channel = [], []
    for feat in teacher:
        size = feat.abs()
        over_space = (size.mean(1).flatten(1) / temperature).softmax(1) * size[0, 0].numel()
        spatial.append(over_space.view_as(size[:, 0]))
        channel.append((size.mean((2, 3)) / temperature).softmax(1) * size.shape[1])
    return spatial, channel


def fgd(
    student: Levels, teacher: Levels, foreground: Levels, background: Levels, alpha: float, beta: float
) -> Tensor:
    """FGD's focal feature loss (eq. 8), per image: both masks times spatial attention, channel attention.

    ``foreground`` holds 1 / (box height x box width) in a box, ``background`` 1 / (its size) outside.
    """
    spatial, channel = fgd_attention(teacher)
    masks = [[mask * s for mask, s in zip(maps, spatial, strict=True)] for maps in (foreground, background)]
    return frs.weighted_mse(
        student, teacher, masks, channel_weight=channel, normalizer="batch", scale=[alpha, beta]
    )


def pgd_attention(
    teacher: Levels, over_space: float = 0.5, over_channels: float = 0.5
) -> tuple[Levels, Levels]:
    """PGD's attention (Yang 2022) at two temperatures: over space as FGD's, over the channels of each
    location ``[B, C, H, W]``."""
    spatial, _ = fgd_attention(teacher, over_space)
    return spatial, [(feat.abs() / over_channels).softmax(1) * feat.shape[1] for feat in teacher]


def pgd(
    student: Levels, teacher: Levels, foreground: Levels, background: Levels, alpha: float, beta: float
) -> Tensor:
    """PGD's feature loss of one head (Yang 2022), per image. A channel weight of each location multiplies the
    squared error, so its root goes to both features.

    ``foreground`` holds the quality scores over the number of locations that have one, ``background``
    1 / (its size) outside.
    """
    spatial, channel = pgd_attention(teacher)
    masks = [[mask * s for mask, s in zip(maps, spatial, strict=True)] for maps in (foreground, background)]
    roots = [attention.sqrt() for attention in channel]
    x, y = ([feat * root for feat, root in zip(feats, roots, strict=True)] for feats in (student, teacher))
    return frs.weighted_mse(x, y, masks, normalizer="batch", scale=[alpha, beta])


def quality_focal(
    student: Levels,
    teacher: Levels,
    beta: float = 1.0,
    divisor: float | Tensor = 1.0,
    label_weights: Levels | None = None,
) -> Tensor:
    """CrossKD (Wang 2024), BCKD (Yang 2023): |p - q|^beta BCE(s, q) at every location, over ``divisor``.

    ``label_weights`` [B, H, W] a level leave locations out: 0 where an image is padded or an anchor ignored.
    """
    maps = label_weights or [torch.ones_like(s[:, 0]) for s in student]
    return frs.weighted_bce(student, teacher, maps, beta=beta, normalizer=divisor)


def main() -> None:
    from tiny_data import images_and_boxes

    torch.manual_seed(0)
    sizes, image_size = [(8, 8), (4, 4), (2, 2)], (64, 64)
    student = [torch.randn(2, 16, *size, requires_grad=True) for size in sizes]
    teacher = [torch.randn(2, 16, *size) for size in sizes]
    foreground = box_maps([boxes for _, boxes, _ in images_and_boxes(2)], sizes, image_size)
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
