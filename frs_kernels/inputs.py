"""The arguments of one call of an operator, and the canonical form in which it takes them."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .contract import Normalizer, Over, Scalar, accumulation_dtype
from .layouts import in_layout, layout


@dataclass
class LossInputs:
    """The arguments of the operators mask and loss: lists over levels (empty where absent) and scalars.

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
    def students(self) -> list[Tensor]:
        """The tensors that may receive gradients."""
        return self.student_feats + self.student_logits

    @property
    def device(self) -> torch.device:
        return self._first_levels[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The accumulation dtype."""
        return accumulation_dtype(*self.tensors)

    @property
    def num_levels(self) -> int:
        return len(self._first_levels)

    @property
    def _first_levels(self) -> list[Tensor]:
        return self.student_feats or self.student_logits or self.teacher_logits

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
        of_each_dtype = {tensor.dtype: tensor for tensor in self.tensors}
        dtype = accumulation_dtype(*of_each_dtype.values())
        feats = self.student_feats, self.teacher_feats
        logits = self.student_logits, self.teacher_logits if self.student_logits or not self.masks else []
        if len(of_each_dtype) > 1:
            feats = _one_dtype(feats[0], dtype), _one_dtype(feats[1], dtype)
            logits = _one_dtype(logits[0], dtype), _one_dtype(logits[1], dtype)
        student_feats, teacher_feats = _aligned(*feats)
        student_logits, teacher_logits = _aligned(*logits)
        return LossInputs(
            student_feats=student_feats,
            teacher_feats=teacher_feats,
            student_logits=student_logits,
            teacher_logits=teacher_logits,
            masks=[_constant(mask, dtype) for mask in self.masks],
            channel_weights=[_constant(weights, dtype) for weights in self.channel_weights],
            normalizer=self.normalizer,
            feat_scale=self.feat_scale,
            head_scale=self.head_scale,
            beta=self.beta,
            per_image=self.per_image,
        )


@dataclass
class KLInputs:
    """The arguments of the operator kl: lists over levels (``weights`` is empty where absent) and scalars."""

    student: list[Tensor]  # s [B, C, H, W]
    teacher: list[Tensor]  # T [B, C, H, W]
    weights: list[Tensor] = field(default_factory=list)  # w [B, H, W], or [B, C] over locations
    over: Over = "channels"
    groups: int = 1
    temperature: float = 1.0
    normalizer: Normalizer = "mask"
    scale: Scalar = 1.0
    per_image: bool = False  # whether the loss is [B] instead of []

    @property
    def tensors(self) -> list[Tensor]:
        return self.student + self.teacher

    @property
    def students(self) -> list[Tensor]:
        """The tensors that may receive gradients."""
        return self.student

    @property
    def device(self) -> torch.device:
        return self.student[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The accumulation dtype."""
        return accumulation_dtype(*self.tensors)

    @property
    def num_levels(self) -> int:
        return len(self.student)

    def canonical(self) -> "KLInputs":
        """The same call in the layouts and dtypes that the operator takes."""
        dtype = self.dtype
        student, teacher = _aligned(_one_dtype(self.student, dtype), _one_dtype(self.teacher, dtype))
        return replace(
            self,
            student=student,
            teacher=teacher,
            weights=[_constant(weights, dtype) for weights in self.weights],
        )


def _layout_copies(name: str, students: list[Tensor], teachers: list[Tensor]) -> list[str]:
    notes: list[str] = []
    for level, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
        if layout(student) is None:
            notes.append(f"level {level}: {name} with strides {list(student.stride())} are copied")
        elif layout(teacher) != layout(student):
            notes.append(f"level {level}: teacher_{name} are copied to the student's layout")
    return notes


def _aligned(students: list[Tensor], teachers: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Per level the layout of the student, or of the teacher if there is no student."""
    layouts = [layout(t) for t in students or teachers]
    return (
        [t if known else in_layout(t, "location_major") for t, known in zip(students, layouts, strict=False)],
        [in_layout(t, known or "location_major") for t, known in zip(teachers, layouts, strict=False)],
    )


def _constant(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask or channel weights as the operators take them: ``tensor`` itself where it is that already."""
    if tensor.dtype == dtype and tensor.is_contiguous() and not tensor.requires_grad:
        return tensor
    return tensor.detach().to(dtype).contiguous()


def _one_dtype(tensors: list[Tensor], accumulation: torch.dtype) -> list[Tensor]:
    if accumulation == torch.float64:
        return [t.double() for t in tensors]
    if len({t.dtype for t in tensors}) > 1:
        return [t.float() for t in tensors]
    return tensors
