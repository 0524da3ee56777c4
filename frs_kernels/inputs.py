"""The arguments of one loss call, and the canonical form in which the operators take them."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .contract import Normalizer, Scalar, accumulation_dtype
from .layouts import in_layout, layout


@dataclass
class LossInputs:
    """The arguments of one call: lists over levels (empty where absent) and scalars.

    A scale and a normalizer may be 0-d tensors, so that a factor on the device needs no synchronisation.
    """

    student_feats: list[Tensor] = field(default_factory=list)  # x [B, D, H, W]
    teacher_feats: list[Tensor] = field(default_factory=list)  # y [B, D, H, W]
    student_logits: list[Tensor] = field(default_factory=list)  # s [B, K, H, W]
    teacher_logits: list[Tensor] = field(default_factory=list)  # T [B, K, H, W]
    masks: list[Tensor] = field(default_factory=list)  # S [B, H, W]; empty: the FRS masks of teacher_logits
    channel_weights: list[Tensor] = field(default_factory=list)  # c [B, D]
    normalizer: Normalizer = "mask"
    feat_scale: Scalar = 1.0
    head_scale: Scalar = 1.0
    beta: float = 0.0
    per_image: bool = False  # whether the losses are [B] instead of []

    @property
    def tensors(self) -> list[Tensor]:
        """The large tensors: features and logits of every level."""
        return self.student_feats + self.teacher_feats + self.student_logits + self.teacher_logits

    @property
    def device(self) -> torch.device:
        return self.tensors[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The accumulation dtype."""
        return accumulation_dtype(*self.tensors)

    @property
    def num_levels(self) -> int:
        return len(self.student_feats or self.student_logits or self.teacher_logits)

    def copies(self) -> list[str]:
        """One sentence for each copy that :meth:`canonical` makes, as kernels read some layouts only."""
        notes: list[str] = []
        if self.student_feats:
            notes += _layout_copies("feats", self.student_feats, self.teacher_feats)
        if self.student_logits:
            notes += _layout_copies("logits", self.student_logits, self.teacher_logits)
        elif not self.masks:
            notes += _layout_copies("teacher_logits", self.teacher_logits, self.teacher_logits)
        if self.dtype == torch.float64 and any(t.dtype != torch.float64 for t in self.tensors):
            notes.append("float64 mixed with other dtypes: everything is converted to float64")
        return notes

    def canonical(self) -> "LossInputs":
        """The same call in the layouts, dtypes and list lengths that the operators take."""
        dtype = self.dtype
        needs_teacher_logits = self.student_logits or not self.masks
        student_feats, teacher_feats = _aligned(self.student_feats, self.teacher_feats, dtype)
        student_logits, teacher_logits = _aligned(
            self.student_logits, self.teacher_logits if needs_teacher_logits else [], dtype
        )
        return replace(
            self,
            student_feats=student_feats,
            teacher_feats=teacher_feats,
            student_logits=student_logits,
            teacher_logits=teacher_logits,
            masks=[m.detach().to(dtype).contiguous() for m in self.masks],
            channel_weights=[c.detach().to(dtype).contiguous() for c in self.channel_weights],
        )


def _layout_copies(name: str, students: list[Tensor], teachers: list[Tensor]) -> list[str]:
    notes: list[str] = []
    for level, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
        if layout(student) is None:
            notes.append(f"level {level}: {name} with strides {list(student.stride())} are copied")
        elif layout(teacher) != layout(student):
            notes.append(f"level {level}: teacher_{name} are copied to the student's layout")
    return notes


def _aligned(
    students: list[Tensor], teachers: list[Tensor], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """One dtype per list; per level the layout of the student, or of the teacher if there is no student."""
    students, teachers = _one_dtype(students, dtype), _one_dtype(teachers, dtype)
    layouts = [layout(t) or "location_major" for t in students or teachers]
    return (
        [in_layout(t, wanted) for t, wanted in zip(students, layouts, strict=False)],
        [in_layout(t, wanted) for t, wanted in zip(teachers, layouts, strict=False)],
    )


def _one_dtype(tensors: list[Tensor], accumulation: torch.dtype) -> list[Tensor]:
    if accumulation == torch.float64:
        return [t.double() for t in tensors]
    if len({t.dtype for t in tensors}) > 1:
        return [t.float() for t in tensors]
    return tensors
