"""The operator kl: which kernels it launches. frs_kernels/contract.py describes its arguments and results."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...contract import MASK_SUM_NORMALIZERS, NORMALIZERS, accumulation_dtype
from ...layouts import grad_like
from . import kl_plan
from .arguments import check_kl, two_floats
from .geometry import geometry, grads_are_pending
from .kl import kl_kernel
from .kl_tiles import GRAD, KL_COLUMNS, STUDENT, TEACHER, WEIGHT
from .launcher import current_device, launch
from .launches import addresses_of, sum_masks
from .level_table import with_addresses
from .plan import TL_DTYPES, tile_bounds_of_terms
from .reduce import FACTOR_ROWS, THREADS, factors_kernel, image_losses_kernel


def kl(
    student, teacher, weights, over_locations, groups, temperature,
    normalizer, normalizer_value, normalizer_tensor, scale, scale_tensor, grad, per_image,
):  # fmt: skip
    """The operator ``kl``: mask_sums_kernel (only if Z_l needs the sum of given weights), factors_kernel,
    kl_kernel. For losses per image, image_losses_kernel follows."""
    check_kl(student, teacher, weights, over_locations, groups, per_image)
    call = KLCall(
        student=student,
        teacher=teacher,
        weights=weights,
        grads=[grad_like(t) for t in student] if grad else [],
        over_locations=over_locations,
        groups=groups,
        temperature=temperature,
        normalizer=normalizer,
        value=(*two_floats(normalizer_value), normalizer_tensor),
        scale=(*two_floats(scale), scale_tensor),
    )
    with current_device(student[0]):
        return *call.run(len(student[0]) if per_image else None), call.grads


@dataclass
class KLCall:
    """The launches of one call of ``kl``.

    The small kernels know two terms: the loss is the first, and the second has no tiles.
    """

    student: list[Tensor]
    teacher: list[Tensor]
    weights: list[Tensor]  # empty: each is 1
    grads: list[Tensor]  # empty: not wanted
    over_locations: bool
    groups: int
    temperature: float
    normalizer: int  # code, see contract.NORMALIZERS
    value: tuple  # of the normalizer and of the scale: (high float, low float, tensor or None)
    scale: tuple

    def __post_init__(self):
        self.acc = accumulation_dtype(self.student[0])
        self.geometry = geometry(self.student, self.teacher, bool(self.grads))
        self.planned = kl_plan.plan_kl(
            self.geometry, self.over_locations, self.groups, self.acc, bool(self.weights)
        )
        self.bounds = tile_bounds_of_terms(self.planned.tile_bounds, None)

    def run(self, batch: int | None) -> tuple[Tensor, Tensor]:
        """(loss [], pending [levels]); for ``batch`` images, (losses [batch], pending)."""
        levels, programs = self.geometry.num_levels, self.planned.programs
        losses, level_losses, pending = self._empty(3), self._empty(2, levels), self._empty(2, levels)
        factors = self._empty(FACTOR_ROWS, 2, levels)
        counters = self._empty(2 * levels + 1, dtype=torch.int32)
        sums = counters, level_losses, losses
        self._launch_factors(factors, pending, sums)
        partials = self._empty(programs)
        if programs:
            self._launch_kl(factors, partials, sums)
        if batch is not None:
            losses = self._empty(3, batch)
            if batch:
                constants = levels, TL_DTYPES[self.acc]
                self._launch(image_losses_kernel, batch, (self.bounds, partials, None, losses), constants)
        return losses[0], pending[0]

    def _launch_factors(self, factors: Tensor, pending: Tensor, sums: tuple[Tensor, ...]) -> None:
        bounds = weight_sums = None
        if self.weights:
            needed = NORMALIZERS[self.normalizer] in MASK_SUM_NORMALIZERS
            bounds, weight_sums = sum_masks(self.weights, needed)
        normalizer, table = kl_plan.normalizer_of(self.geometry, self.over_locations, self.normalizer, bounds)
        levels, is_pending = self.geometry.num_levels, grads_are_pending(self.geometry)
        self._launch(
            factors_kernel, levels,
            (table, weight_sums, factors, pending, *sums, *self.value, *self.scale, *self.scale),
            (normalizer, is_pending, is_pending, levels, TL_DTYPES[self.acc]), threads=THREADS,
        )  # fmt: skip

    def _launch_kl(self, factors: Tensor, partials: Tensor, sums: tuple[Tensor, ...]) -> None:
        tensors = {WEIGHT: self.weights, GRAD: self.grads, STUDENT: self.student, TEACHER: self.teacher}
        addresses = {column.value: addresses_of(of) for column, of in tensors.items() if of}
        table = with_addresses(self.planned.table, addresses, KL_COLUMNS.value)
        planned = self.planned
        numbers = *two_floats(math.log2(math.e) / self.temperature), *two_floats(self.temperature)
        self._launch(
            kl_kernel, planned.programs,
            (table, self.bounds, factors, partials, *sums, planned.programs, planned.row_blocks, *numbers),
            (planned.config,), threads=planned.threads,
            max_registers=kl_plan.max_kl_registers(planned.config, planned.threads),
        )  # fmt: skip

    def _empty(self, *sizes: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(sizes, dtype=dtype or self.acc, device=self.student[0].device)

    def _launch(self, kernel, programs: int, arguments: tuple, constants: tuple, **options) -> None:
        launch(kernel, programs, self.student[0].device, arguments, constants, **options)
