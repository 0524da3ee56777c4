"""The launches of one loss call: mask, factors, loss; or, with no gradient wanted, one pass and its end."""

from dataclasses import dataclass

import torch
from torch import Tensor

from frs_kernels.backends.triton import plan, tiles
from frs_kernels.backends.triton.geometry import Geometry, pending_scale
from frs_kernels.backends.triton.launch import launch
from frs_kernels.backends.triton.loss import loss_kernel, single_kernel
from frs_kernels.backends.triton.mask import ADD, SUM_ADDRESS, SUM_COLUMNS, mask_kernel, weight_sums
from frs_kernels.backends.triton.plan import DTYPES
from frs_kernels.backends.triton.reduce import FACTORS, THREADS, factors_kernel, finish_kernel

_SUMMED = (0, 1)  # the normalizers that need N_l: positions in contract.NORMALIZERS


@dataclass
class Part:
    """The tensors of one term, and their geometry. The mask alone has no students."""

    geometry: Geometry
    students: list[Tensor]
    teachers: list[Tensor]
    grads: list[Tensor]

    def table(self, planned: plan.Launch, maps: list[int], channel_weights: list[Tensor]) -> tuple[int, ...]:
        """The level table of a launch with the addresses of this call."""
        columns = {tiles.TEACHER.value: _addresses(self.teachers)}
        for column, tensors in (
            (tiles.STUDENT, self.students), (tiles.GRAD, self.grads), (tiles.CHANNEL_WEIGHT, channel_weights)
        ):  # fmt: skip
            if tensors:
                columns[column.value] = _addresses(tensors)
        if maps:
            columns[tiles.WEIGHT.value] = maps
        return plan.with_addresses(planned.table, columns, tiles.WIDTH.value)


def _addresses(tensors: list[Tensor]) -> list[int]:
    return [t.data_ptr() for t in tensors]


def launch_mask(logits: Part, maps: list[int], acc: torch.dtype, sums=None):
    """Fills the maps at these addresses, and the partial sums that ``sums(n)`` allocates.

    Returns the bounds of each level's partial sums, and the sums.
    """
    planned = plan.mask_launch(logits.geometry, acc)
    partials = sums(planned.programs) if sums else None
    if planned.programs:
        table = logits.table(planned, maps, [])
        device = logits.teachers[0].device
        launch(mask_kernel, planned.programs, device, (table, partials), (planned.term,))
    return planned.bounds, partials


@dataclass
class LossCall:
    """One loss call. ``logits`` has no students where it serves the mask alone."""

    feats: Part | None
    logits: Part | None
    weights: list[Tensor]
    channel_weights: list[Tensor]
    acc: torch.dtype
    normalizer: int
    numbers: tuple  # divisor, feature scale, head scale: each (float, its rest, tensor or None)
    beta: float

    def __post_init__(self):
        self.head = self.logits if self.logits and self.logits.students else None
        self.geometries = [part and part.geometry for part in (self.head, self.feats)]
        self.sizes = (self.feats or self.logits).geometry.sizes
        self.device = (self.feats or self.logits).teachers[0].device
        self.options = self.acc, self.beta, bool(self.channel_weights)

    def two_phases(self) -> tuple[Tensor, Tensor]:
        """(losses, pending): first Z_l of every level, then losses and gradients with one read of each."""
        bounds, sums, maps, _owner = self._weigh()
        rows = len(self.sizes)
        losses, pending = self._empty(3), self._empty(2, rows)
        factors, counter = self._empty(FACTORS.value * 2 * rows), self._empty(1, dtype=torch.int32)
        table = plan.factor_table(bounds, *self.geometries, self.normalizer)
        head_pending, feat_pending = (pending_scale(found) for found in self.geometries)
        self._launch(
            factors_kernel, rows,
            (table, sums, factors, pending, counter, losses, *self.numbers),
            (self.normalizer, feat_pending, head_pending, rows, DTYPES[self.acc]), threads=THREADS,
        )  # fmt: skip
        self._launch_loss(factors, counter, losses, maps)
        return losses, pending

    def single_pass(self) -> tuple[Tensor, Tensor]:
        """The same without gradients: every input is read once, and S is known only at the end."""
        head, feat = plan.single_launches(self.logits.geometry, self.geometries[1], *self.options)
        sums, errors, entropies = self._empty(3, max(head.programs, 1)).unbind()
        errors, entropies = errors if self.feats else None, entropies if self.head else None
        if head.programs:
            head_table = self.logits.table(head, [], [])
            feat_table = self.feats.table(feat, [], self.channel_weights) if feat else None
            self._launch(
                single_kernel, head.programs,
                (head_table, feat_table, sums, errors, entropies),
                (head.term, feat and feat.term, self.head is not None),
            )  # fmt: skip
        losses, pending = self._empty(3), self._empty(2, len(self.sizes))
        table = plan.factor_table(head.bounds, *self.geometries, self.normalizer)
        self._launch(
            finish_kernel, 1,
            (table, sums, errors, entropies, losses, pending, *self.numbers),
            (self.normalizer, len(self.sizes), DTYPES[self.acc]), threads=THREADS,
        )  # fmt: skip
        return losses, pending

    def _empty(self, *sizes: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(sizes, dtype=dtype or self.acc, device=self.device)

    def _weigh(self):
        """(bounds of each level's partial sums of S, the sums, addresses of the maps, what owns them)"""
        needed = self.normalizer in _SUMMED
        if not self.weights:
            owner, maps = self._empty(sum(self.sizes)), []
            address = owner.data_ptr()
            for size in self.sizes:
                maps.append(address)
                address += size * owner.element_size()
            return *launch_mask(self.logits, maps, self.acc, self._empty if needed else None), maps, owner
        planned = plan.flat_launch(tuple(self.sizes), ADD.value)
        maps = _addresses(self.weights)
        sums = self._empty(planned.programs) if needed else None
        if needed and planned.programs:
            table = plan.with_addresses(planned.table, {SUM_ADDRESS.value: maps}, SUM_COLUMNS.value)
            self._launch(weight_sums, planned.programs, (table, sums), (len(maps), DTYPES[self.acc]))
        return planned.bounds, sums, maps, self.weights

    def _launch_loss(self, factors: Tensor, counter: Tensor, losses: Tensor, maps: list[int]) -> None:
        head, feat = plan.loss_launches(*self.geometries, *self.options)
        head_tiles, feat_tiles = head.programs if head else 0, feat.programs if feat else 0
        if head_tiles + feat_tiles == 0:
            return
        head_table = self.head.table(head, maps, []) if head else None
        feat_table = self.feats.table(feat, maps, self.channel_weights) if feat else None
        partials = self._empty(head_tiles + feat_tiles)
        steps = head.steps if head else 0, feat.steps if feat else 0
        terms = head and head.term, feat and feat.term
        self._launch(
            loss_kernel, head_tiles + feat_tiles,
            (head_table, feat_table, factors, partials, counter, losses, head_tiles, feat_tiles, *steps),
            (*terms, DTYPES[self.acc]), registers=plan.loss_registers(*terms),
        )  # fmt: skip

    def _launch(self, kernel, programs: int, arguments: tuple, constants: tuple, **options) -> None:
        launch(kernel, programs, self.device, arguments, constants, **options)
