"""The compatibility of a student and a teacher: which losses they can share."""

from __future__ import annotations

from dataclasses import dataclass

from frs_train.detectors.base import Detector
from frs_train.errors import UserError


@dataclass(frozen=True)
class Compatibility:
    """The result of `compatibility`."""

    levels: list[tuple[int, int]]
    """(student level, teacher level) of each stride that both pyramids have, finest first."""
    unshared: str | None
    """A message if some levels are left out."""
    logit_difference: str | None
    """Why their classification logits do not mean the same, channel by channel; None if they do."""
    edge_difference: str | None
    """Why their edge logits do not mean the same, or that there are none; None if they do."""


def compatibility(teacher: Detector, student: Detector, *, same_classes: bool = True) -> Compatibility:
    """Which losses a student and a teacher can share. Backbones, widths and channels may always differ.

    Args:
        same_classes: whether both have the same class names in the same order; detectors do not store names.

    Raises:
        UserError: the pyramids have no stride in common, so that not even the features can be compared.
    """
    levels = [
        (student.strides.index(stride), teacher.strides.index(stride))
        for stride in student.strides
        if stride in teacher.strides
    ]
    if not levels:
        raise UserError(
            f"Teacher and student do not fit together: the {teacher.family} teacher has levels at strides "
            f"{_listed(teacher.strides)}, the {student.family} student at {_listed(student.strides)}, and "
            "none is shared. Use detectors whose pyramids overlap."
        )
    unshared = None
    if len(levels) < max(len(student.strides), len(teacher.strides)):
        unshared = f"Only the levels at strides {_listed(student.strides[s] for s, _ in levels)} are shared."
    return Compatibility(
        levels,
        unshared,
        _logit_difference(teacher, student, same_classes),
        _edge_difference(teacher, student),
    )


def _logit_difference(teacher: Detector, student: Detector, same_classes: bool) -> str | None:
    if teacher.family != student.family:
        return f"a {teacher.family} teacher's logits mean something else than a {student.family} student's"
    if teacher.head_signature() == student.head_signature():
        objectness = teacher.family == "faster-rcnn"  # has no classes
        return None if same_classes or objectness else "teacher and student have different classes"
    if teacher.num_anchors == student.num_anchors and teacher.logit_channels != student.logit_channels:
        return f"the teacher has {teacher.num_classes} classes, the student {student.num_classes}"
    return "the anchors of teacher and student differ"


def _edge_difference(teacher: Detector, student: Detector) -> str | None:
    for detector, role in ((teacher, "teacher"), (student, "student")):
        if detector.edge_signature() is None:
            return f"the {role} is a {detector.family}, and of the detectors only gfl has them"
    if teacher.edge_signature() == student.edge_signature():
        return None
    return "the anchors of teacher and student differ, in which the distances of edges are measured"


def _listed(numbers) -> str:
    return ", ".join(map(str, numbers))
