"""What sizes, strides and alignment of one term's tensors allow: layout, wide accesses, 64-bit offsets.

All of it depends on no address and no value, so it is worked out once for each combination of sizes and
remembered: a training step finds it by a look-up.
"""

import math

from torch import Tensor

from frs_kernels.backends.triton.tiles import ALIGNED, CHANNEL, CHANNEL_MAJOR, LOCATION, MIXED
from frs_kernels.contract import pending_factor
from frs_kernels.layouts import layout, location_stride

_INT32 = 2**31 - 1
_REMEMBERED: dict[tuple, "Geometry"] = {}
_MOST = 1024  # combinations of sizes; a multi-scale training has dozens


def geometry(students: list[Tensor], teachers: list[Tensor], grad: bool) -> "Geometry":
    """The geometry of one term; without students, of teacher logits that serve the mask alone."""
    key = (grad, len(students), *[_key(t) for t in students], *[_key(t) for t in teachers])
    found = _REMEMBERED.get(key)
    if found is None:
        if len(_REMEMBERED) >= _MOST:
            _REMEMBERED.clear()
        found = _REMEMBERED[key] = Geometry(students, teachers, grad)
    return found


def _key(tensor: Tensor) -> tuple:
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.data_ptr() % 16


class Geometry:
    """Level by level: sizes, strides as the kernels read them, flags. Equal to none but itself.

    Attributes:
        batch, channels, locations: a number a level.
        order: LOCATION, CHANNEL or MIXED.
        student, teacher: dtypes; without students, both are the teacher's.
        student_strides, teacher_strides: (of the batch, of whichever of channels and locations is not 1).
        flags: ALIGNED | CHANNEL_MAJOR, a number a level.
        vector: elements of the narrowest dtype in 16 bytes.
        has_student, grad: whether there are students, and whether gradients are stored.
    """

    def __init__(self, students: list[Tensor], teachers: list[Tensor], grad: bool):
        some = students or teachers
        self.has_student, self.grad = bool(students), grad
        self.batch = [t.shape[0] for t in some]
        self.channels = [t.shape[1] for t in some]
        self.locations = [math.prod(t.shape[2:]) for t in some]
        self.student, self.teacher = some[0].dtype, teachers[0].dtype
        self.vector = 16 // min(self.student.itemsize, self.teacher.itemsize)
        groups = [levels for levels in (students, teachers) if levels]
        self.order = _common_order([t for levels in groups for t in levels])
        self._channel_major = [
            layout(t) == "channel_major" if self.order == MIXED.value else self.order == CHANNEL.value
            for t in some
        ]
        self.student_strides = [self._strides(i, t) for i, t in enumerate(students)]
        self.teacher_strides = [self._strides(i, t) for i, t in enumerate(teachers)]
        self.flags = [self._flags(i, [levels[i] for levels in groups]) for i in range(len(some))]

    @property
    def rows(self) -> int:
        return len(self.batch)

    @property
    def sizes(self) -> list[int]:
        """Weights a level."""
        return [b * n for b, n in zip(self.batch, self.locations, strict=True)]

    @property
    def all_aligned(self) -> bool:
        """Whether every level that has elements allows wide accesses."""
        counts = (size * c for size, c in zip(self.sizes, self.channels, strict=True))
        return all(flags & ALIGNED.value for flags, count in zip(self.flags, counts, strict=True) if count)

    def wide(self, tile_channels: int, tile_locations: int) -> bool:
        """Whether an offset in a tile, or a position along an axis, may exceed 32 bits."""
        for level in range(self.rows):
            longest = tile_locations if self._channel_major[level] else tile_channels
            ends = (self.locations[level], self.channels[level])
            strides = [s[level][1] for s in (self.student_strides, self.teacher_strides) if s]
            if max(*ends, *(step * longest for step in (*strides, *ends))) > _INT32 - 2**16:
                return True
        return False

    def _strides(self, level: int, tensor: Tensor) -> tuple[int, int]:
        """Stride of the batch, and the one that the order leaves open; 0 where there is but one."""
        if self._channel_major[level]:
            return tensor.stride(0), location_stride(tensor) if self.locations[level] > 1 else 0
        return tensor.stride(0), tensor.stride(1) if self.channels[level] > 1 else 0

    def _flags(self, level: int, tensors: list[Tensor]) -> int:
        """ALIGNED: every run of the level may be cut into 16-byte pieces of the narrowest dtype.

        Gradients are not asked: they are dense and come from the allocator.
        """
        major = self._channel_major[level]
        run = self.channels[level] if major else self.locations[level]
        aligned = self.order != MIXED.value and run % self.vector == 0
        for tensor in tensors:
            batch, other = self._strides(level, tensor)
            steady = tensor.shape[0] == 1 or batch % self.vector == 0
            aligned = aligned and steady and other % self.vector == 0 and tensor.data_ptr() % 16 == 0
        return aligned * ALIGNED.value + major * CHANNEL_MAJOR.value


def _common_order(tensors: list[Tensor]) -> int:
    """One order for all levels if there is one: a level of one location or one channel fits several."""
    if all(location_stride(t) == 1 for t in tensors):
        return LOCATION.value
    return CHANNEL.value if all(_fits_channel_major(t) for t in tensors) else MIXED.value


def _fits_channel_major(tensor: Tensor) -> bool:
    if tensor.numel() == 0 or tensor.shape[1] == 1 or layout(tensor) == "channel_major":
        return True
    return math.prod(tensor.shape[2:]) == 1 and tensor.stride(1) == 1


def pending_scale(found: Geometry | None) -> bool:
    """Whether the gradients of this term are stored without their factor scale / Z_l."""
    return found is not None and found.grad and pending_factor(found.student)
