"""The geometry of one term: sizes, strides, layout and alignment of its tensors, and what they allow.

It depends on no address (except modulo 16 bytes) and on no value, so it is computed once per combination of
sizes and cached: a training step looks it up.
"""

import math

from torch import Tensor

from ...contract import pending_factor
from ...layouts import layout, location_stride
from .level_table import FLAG_ALIGNED, FLAG_CHANNEL_MAJOR
from .tiles import CHANNEL_MAJOR, LOCATION_MAJOR, MIXED_LAYOUTS

_MAX_INT32 = 2**31 - 1
_CACHE: dict[tuple, "Geometry"] = {}
_CACHE_SIZE = 1024  # combinations of sizes; multi-scale training has dozens


def geometry(students: list[Tensor], teachers: list[Tensor], has_grads: bool) -> "Geometry":
    """The geometry of one term; without students, that of teacher logits which serve the mask alone."""
    key = (has_grads, len(students), *[_key(t) for t in students], *[_key(t) for t in teachers])
    cached = _CACHE.get(key)
    if cached is None:
        if len(_CACHE) >= _CACHE_SIZE:
            _CACHE.clear()
        cached = _CACHE[key] = Geometry(students, teachers, has_grads)
    return cached


def _key(tensor: Tensor) -> tuple:
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.data_ptr() % 16


class Geometry:
    """Sizes, strides and flags of each level. Compared and hashed by identity.

    Attributes:
        batch, channels, locations: one number per level.
        layout: LOCATION_MAJOR, CHANNEL_MAJOR or MIXED_LAYOUTS.
        student_dtype, teacher_dtype: without students, both are the teacher's.
        student_strides, teacher_strides: per level (stride of the batch, stride of the non-contiguous one of
            channels and locations), in elements.
        flags: FLAG_ALIGNED | FLAG_CHANNEL_MAJOR, per level.
        vec: elements of the narrowest dtype in 16 bytes.
        has_students, has_grads: whether there are students, and whether gradients are stored.
    """

    def __init__(self, students: list[Tensor], teachers: list[Tensor], has_grads: bool):
        levels = students or teachers
        self.has_students, self.has_grads = bool(students), has_grads
        self.batch = [t.shape[0] for t in levels]
        self.channels = [t.shape[1] for t in levels]
        self.locations = [math.prod(t.shape[2:]) for t in levels]
        self.student_dtype, self.teacher_dtype = levels[0].dtype, teachers[0].dtype
        self.vec = 16 // min(self.student_dtype.itemsize, self.teacher_dtype.itemsize)
        self.layout = _common_layout(students + teachers)
        self._channel_major = [
            layout(t) == "channel_major"
            if self.layout == MIXED_LAYOUTS.value
            else self.layout == CHANNEL_MAJOR.value
            for t in levels
        ]
        self.student_strides = [self._strides(level, t) for level, t in enumerate(students)]
        self.teacher_strides = [self._strides(level, t) for level, t in enumerate(teachers)]
        lists = [tensors for tensors in (students, teachers) if tensors]
        self.flags = [self._flags(level, of_level) for level, of_level in enumerate(zip(*lists, strict=True))]

    @property
    def num_levels(self) -> int:
        return len(self.batch)

    @property
    def mask_sizes(self) -> list[int]:
        """Elements of the mask of each level: B * L."""
        return [b * n for b, n in zip(self.batch, self.locations, strict=True)]

    @property
    def all_aligned(self) -> bool:
        """Whether every level that has elements allows 16-byte accesses."""
        elements = (n * c for n, c in zip(self.mask_sizes, self.channels, strict=True))
        return all(
            flags & FLAG_ALIGNED.value for flags, count in zip(self.flags, elements, strict=True) if count
        )

    def needs_int64_offsets(self, block_c: int, block_l: int) -> bool:
        """Whether an offset within a block, or an index of a channel or location, may exceed 32 bits."""
        for level in range(self.num_levels):
            length = block_l if self._channel_major[level] else block_c
            sizes = (self.locations[level], self.channels[level])
            strides = [s[level][1] for s in (self.student_strides, self.teacher_strides) if s]
            if max(*sizes, *(stride * length for stride in (*strides, *sizes))) > _MAX_INT32 - 2**16:
                return True
        return False

    def _strides(self, level: int, tensor: Tensor) -> tuple[int, int]:
        """(stride of the batch, stride of the non-contiguous dimension, 0 where that has one element)"""
        if self._channel_major[level]:
            stride = location_stride(tensor) if self.locations[level] > 1 else 0
            return tensor.stride(0), stride  # pyright: ignore[reportReturnType]  # a level with a layout has one
        return tensor.stride(0), tensor.stride(1) if self.channels[level] > 1 else 0

    def _flags(self, level: int, tensors: tuple[Tensor, ...]) -> int:
        """FLAG_ALIGNED: every contiguous run of the level starts at a multiple of 16 bytes and has a length
        that is one, counted in elements of the narrowest dtype.

        Gradients need no check: they are dense and come from the allocator.
        """
        channel_major = self._channel_major[level]
        run = self.channels[level] if channel_major else self.locations[level]
        aligned = self.layout != MIXED_LAYOUTS.value and run % self.vec == 0
        for tensor in tensors:
            stride_b, stride = self._strides(level, tensor)
            images_aligned = tensor.shape[0] == 1 or stride_b % self.vec == 0
            aligned = aligned and images_aligned and stride % self.vec == 0 and tensor.data_ptr() % 16 == 0
        return aligned * FLAG_ALIGNED.value + channel_major * FLAG_CHANNEL_MAJOR.value


def grads_are_pending(term: Geometry | None) -> bool:
    """Whether the gradients of a term are stored without their factor scale / Z_l."""
    return term is not None and term.has_grads and pending_factor(term.student_dtype)


def _common_layout(tensors: list[Tensor]) -> int:
    """The layout of all levels, if there is one: a level of one location or one channel has both."""
    if all(location_stride(t) == 1 for t in tensors):
        return LOCATION_MAJOR.value
    return CHANNEL_MAJOR.value if all(map(_is_channel_major, tensors)) else MIXED_LAYOUTS.value


def _is_channel_major(tensor: Tensor) -> bool:
    if tensor.numel() == 0 or tensor.shape[1] == 1 or layout(tensor) == "channel_major":
        return True
    return math.prod(tensor.shape[2:]) == 1 and tensor.stride(1) == 1
