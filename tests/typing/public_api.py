"""The public face as a type checker sees it. `make lint` checks this file; nothing runs it.

A line with `# pyright: ignore` is a mistake that the checker must find: where it finds none, the comment is
an error of its own.
"""

import torch
from torch import Tensor
from typing_extensions import assert_type  # typing has it from Python 3.11 on

import frs_kernels as frs
from frs_kernels import reference
from frs_kernels.integrations.hooks import Capture, Distiller


def masks_are_as_many_as_logits(level: Tensor, levels: list[Tensor], pyramid: tuple[Tensor, ...]) -> None:
    assert_type(frs.frs_mask(level), Tensor)
    assert_type(frs.frs_mask(levels), list[Tensor])
    assert_type(frs.frs_mask(pyramid, backend="eager"), list[Tensor])
    assert_type(reference.frs_mask(level), Tensor)
    assert_type(reference.frs_mask(levels), list[Tensor])


def losses_are_tensors(student: list[Tensor], teacher: list[Tensor], mask: Tensor, scale: Tensor) -> None:
    loss = frs.frs_loss(student, teacher, student_logits=student, teacher_logits=teacher)
    assert_type(loss, frs.FRSLossOutput)
    assert_type(loss.total, Tensor)
    assert_type(loss.feature_levels, Tensor)
    assert_type(loss.scalars(), dict[str, float])
    assert_type(frs.weighted_mse(student, teacher, [mask], normalizer=3.0, reduction="none"), Tensor)
    sets = [[mask], mask]
    assert_type(frs.weighted_mse(student, teacher, mask_sets=sets, normalizer=["mask", 2.0]), Tensor)
    assert_type(frs.weighted_bce(student, teacher, mask, scale=scale, beta=1.0), Tensor)
    assert_type(frs.explain_backend(student, teacher, masks=mask).copies, list[str])
    assert_type(reference.weighted_mse(student, teacher, mask), Tensor)


def modules_and_helpers(
    student: torch.nn.Module, teacher: torch.nn.Module, optimizer: torch.optim.Optimizer, flat: Tensor
) -> None:
    criterion = frs.FRSDistillationLoss([64, 128], 256, warmup_iters=100)
    criterion.count_steps(optimizer).remove()
    assert_type(criterion.iteration, Tensor)
    assert_type(frs.split_levels(flat, [(8, 8), (4, 4)], num_anchors=1), list[Tensor])
    assert_type(Capture(student, feats="neck", logits=("head", tuple[object]))["feats"], list[Tensor])
    distiller = Distiller(student, teacher, criterion, {"feats": "neck"})
    assert_type(distiller.teacher, torch.nn.Module)
    assert_type(distiller.forward(flat)[1], frs.FRSLossOutput)
    assert_type(frs.available_backends(), list[str])


def mistakes(level: Tensor, levels: list[Tensor]) -> None:
    frs.frs_mask(level, backend="cuda")  # pyright: ignore[reportCallIssue, reportArgumentType]
    frs.frs_loss(level, level, masks=level, backend="cuda")  # pyright: ignore[reportArgumentType]
    frs.frs_loss(level, level, levels)  # pyright: ignore[reportCallIssue]
    frs.frs_loss(level, level, masks=level, normalizer="sum")  # pyright: ignore[reportArgumentType]
    frs.weighted_mse(level, level, level, reduction="batchmean")  # pyright: ignore[reportArgumentType]
    frs.weighted_mse(level, None, level)  # pyright: ignore[reportArgumentType]
    frs.weighted_bce(level, level, level, beta=level)  # pyright: ignore[reportArgumentType]
    frs.FeatureAdapter(64, 64, 1, kind="conv5x5")  # pyright: ignore[reportArgumentType]
    loss = frs.frs_loss(level, level, masks=level)
    loss.total = level  # pyright: ignore[reportAttributeAccessIssue]
    list(loss)  # pyright: ignore[reportArgumentType]
