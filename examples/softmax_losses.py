"""Published distillation losses of softmax distributions as calls of one primitive.

    python examples/softmax_losses.py

Each function takes lists of levels and returns a 0-d loss that is differentiable in the student. Logits are
``[B, C, H, W]``; logits ``[N, C]`` of images or proposals are ``[N, C, 1]`` here. docs/integrations.md names
the parts of each method that are not covered.
"""

import torch
from torch import Tensor

import frs_kernels as frs

Levels = list[Tensor]


def kd(student: Levels, teacher: Levels, temperature: float, weights: Levels | None = None) -> Tensor:
    """Hinton's KD (2015): the mean over the locations, or the mean weighted by ``weights`` [B, H, W]."""
    return frs.weighted_kl(student, teacher, weights, temperature=temperature)


def ld(
    student: Levels, teacher: Levels, scores: Levels, loss_weight: float = 0.25, temperature: float = 10.0
) -> Tensor:
    """Localization distillation (Zheng 2022) of the bins of GFL's edges, as mmdetection's LDHead has it.

    ``scores`` [B, H, W] are the student's largest class probability at positive locations, 0 elsewhere. The
    mean over the bins belongs to the published weights: the divergence itself is a sum over them.
    """
    bins = student[0].shape[1] // 4
    return frs.weighted_kl(
        student, teacher, scores, groups=4, temperature=temperature, normalizer=4 * bins, scale=loss_weight
    )


def crosskd_boxes(student: Levels, teacher: Levels, teacher_logits: Levels, loss_weight: float) -> Tensor:
    """CrossKD's loss of GFL's edges (Wang 2024): the mean over all levels, weighted by the FRS mask."""
    masks = frs.frs_mask(teacher_logits)
    return frs.weighted_kl(
        student, teacher, masks, groups=4, normalizer="mask_all_levels", scale=loss_weight / 4
    )


def cwd(student: Levels, teacher: Levels, temperature: float = 1.0) -> Tensor:
    """Channel-wise distillation (Shu 2021, eq. 3): a softmax over the locations, the mean over channels."""
    return frs.weighted_kl(student, teacher, over="locations", temperature=temperature)


def target_and_rest(logits: Levels, labels: Levels, temperature: float) -> tuple[Levels, Levels]:
    """What DKD compares: two bins, the target class and all others together; and the others among themselves.

    The former are [B, 2, H, W]. In the latter [B, C, H, W] the target class has no probability.
    """
    binary, rest = [], []
    for z, label in zip(logits, labels, strict=True):
        target = label[:, None]
        others = z.scatter(1, target, -torch.inf)
        together = temperature * (others / temperature).logsumexp(dim=1, keepdim=True)
        binary.append(torch.cat([z.gather(1, target), together], dim=1))
        rest.append(others)
    return binary, rest


def dkd(
    student: Levels, teacher: Levels, labels: Levels, alpha: float, beta: float, temperature: float
) -> Tensor:
    """Decoupled KD (Zhao 2022): alpha times the target class, beta times the others, at labeled locations.

    ``labels`` [B, H, W] are classes; a negative one marks a location that does not count.
    """
    weights = [label >= 0 for label in labels]
    classes = [label.clamp(min=0) for label in labels]
    binary, rest = target_and_rest(student, classes, temperature)
    teacher_binary, teacher_rest = target_and_rest(teacher, classes, temperature)
    target_part = frs.weighted_kl(binary, teacher_binary, weights, temperature=temperature, scale=alpha)
    other_part = frs.weighted_kl(rest, teacher_rest, weights, temperature=temperature, scale=beta)
    return target_part + other_part


def main() -> None:
    torch.manual_seed(0)
    sizes, bins, classes = [(8, 8), (4, 4), (2, 2)], 17, 16

    def levels(channels: int, wants_grad: bool = False) -> Levels:
        return [torch.randn(2, channels, *size).requires_grad_(wants_grad) for size in sizes]

    student, teacher = levels(classes, wants_grad=True), levels(classes)
    edges, teacher_edges = levels(4 * bins, wants_grad=True), levels(4 * bins)
    labels = [torch.randint(-1, classes, (2, *size)) for size in sizes]
    scores = [
        s.detach().sigmoid().amax(dim=1) * (label >= 0) for s, label in zip(student, labels, strict=True)
    ]
    losses = {
        "KD": kd(student, teacher, temperature=4.0),
        "LD": ld(edges, teacher_edges, scores),
        "CrossKD, boxes": crosskd_boxes(edges, teacher_edges, teacher, loss_weight=3.0),
        "CWD": cwd(student, teacher),
        "DKD": dkd(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0),
    }
    for name, loss in losses.items():
        print(f"{name:14} {loss.item():10.4f}")
    sum(losses.values()).backward()


if __name__ == "__main__":
    main()
