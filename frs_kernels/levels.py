"""What a level is: lists of levels, and the checked arguments of one call.

A *level* is one map of a feature pyramid: features ``[B, D, H, W]``, logits ``[B, K, H, W]`` (or with
the locations flattened, ``[B, D, L]``), and a weight for each of its B x H x W locations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from frs_kernels.contract import accumulation_dtype
from frs_kernels.layouts import in_layout, layout

Levels = Tensor | Sequence[Tensor]


def split_levels(flat_logits: Tensor, sizes: Sequence[tuple[int, int]], num_anchors: int) -> list[Tensor]:
    """Cuts torchvision's flat logits into per-level views, without a copy.

    Args:
        flat_logits: ``[B, sum(H_l * W_l * num_anchors), K]``, as torchvision's heads return them: level
            after level, row-major locations, the anchors of a location next to each other.
        sizes: ``(H_l, W_l)`` of every level.
        num_anchors: anchors per location (1 for an anchor-free head).

    Returns:
        one view ``[B, num_anchors * K, H_l, W_l]`` a level (channels next to each other in memory).

    Raises:
        ValueError: if the sizes do not add up to ``flat_logits.shape[1]``.
    """
    if flat_logits.dim() != 3:
        raise ValueError(f"flat_logits must be [B, sum(H*W*A), K], got {list(flat_logits.shape)}")
    rows = [height * width * num_anchors for height, width in sizes]
    if sum(rows) != flat_logits.shape[1]:
        raise ValueError(
            f"flat_logits {list(flat_logits.shape)} has {flat_logits.shape[1]} rows, but sizes {list(sizes)} "
            f"with num_anchors={num_anchors} need {sum(rows)}"
        )
    batch, _, classes = flat_logits.shape
    views = []
    for level, (height, width) in zip(flat_logits.split(rows, dim=1), sizes, strict=True):
        grid = level.unflatten(1, (height, width, num_anchors)).flatten(3)
        views.append(grid.permute(0, 3, 1, 2).view(batch, num_anchors * classes, height, width))
    return views


@dataclass
class Terms:
    """The arguments of one call, checked: lists over levels (empty where absent) and scalars.

    A scale is a number times an optional 0-d tensor, so that a factor on the device needs no host sync.
    """

    student_feats: list[Tensor] = field(default_factory=list)  # x  [B, D, H, W]
    teacher_feats: list[Tensor] = field(default_factory=list)  # y  [B, D, H, W]
    student_logits: list[Tensor] = field(default_factory=list)  # s  [B, K, H, W]
    teacher_logits: list[Tensor] = field(default_factory=list)  # T  [B, K, H, W]
    weights: list[Tensor] = field(default_factory=list)  # S  [B, H, W]; empty: the mask of teacher_logits
    channel_weights: list[Tensor] = field(default_factory=list)  # [B, D]
    normalizer: str | float | Tensor = "mask"
    feat_scale: float | Tensor = 1.0
    head_scale: float | Tensor = 1.0
    beta: float = 0.0

    @property
    def tensors(self) -> list[Tensor]:
        """The large tensors: features and logits of every level."""
        return self.student_feats + self.teacher_feats + self.student_logits + self.teacher_logits

    @property
    def dtype(self) -> torch.dtype:
        return accumulation_dtype(*self.tensors)

    def pairs(self) -> list[tuple[str, int, Tensor, Tensor | None]]:
        """(argument, level, student or only tensor, teacher) of every level of every term."""
        found = []
        if self.student_feats:
            both = zip(self.student_feats, self.teacher_feats, strict=True)
            found += [("feats", level, x, y) for level, (x, y) in enumerate(both)]
        if self.student_logits:
            both = zip(self.student_logits, self.teacher_logits, strict=True)
            found += [("logits", level, s, t) for level, (s, t) in enumerate(both)]
        elif not self.weights:
            found += [("teacher_logits", level, t, None) for level, t in enumerate(self.teacher_logits)]
        return found

    def copies(self) -> list[str]:
        """What the fused kernels need a copy of, in words: layouts and dtypes they do not read."""
        notes = []
        for name, level, student, teacher in self.pairs():
            if layout(student) is None:
                notes.append(f"level {level}: {name} with strides {list(student.stride())} are copied")
            elif teacher is not None and layout(teacher) != layout(student):
                notes.append(f"level {level}: teacher_{name} are copied to the student's layout")
        for tensor in self.tensors:
            if tensor.dtype != torch.float64 and self.dtype == torch.float64:
                notes.append("float64 beside other dtypes: everything is converted to float64")
                break
        return notes

    def canonical(self) -> "Terms":
        """The same call in the layouts, dtypes and list lengths that the operators take."""
        dtype = self.dtype
        needed = self.student_logits or not self.weights
        student_feats, teacher_feats = _aligned(self.student_feats, self.teacher_feats, dtype)
        student_logits, teacher_logits = _aligned(
            self.student_logits, self.teacher_logits if needed else [], dtype
        )
        return replace(
            self,
            student_feats=student_feats,
            teacher_feats=teacher_feats,
            student_logits=student_logits,
            teacher_logits=teacher_logits,
            weights=[w.detach().to(dtype).contiguous() for w in self.weights],
            channel_weights=[c.detach().to(dtype).contiguous() for c in self.channel_weights],
        )


def _aligned(students: list[Tensor], teachers: list[Tensor], dtype: torch.dtype) -> tuple:
    """One dtype a list, one layout a level (the student's, or the teacher's own without a student)."""
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
