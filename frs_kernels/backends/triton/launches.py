"""The operators mask, loss and scale_: which kernels each of them launches, in which order.

The operator kl is in kl_launches.py. frs_kernels/contract.py describes their arguments and results.
"""

# Whether a term is there decides on its tensors, its geometry and its plan, which no type says.
# pyright: reportOptionalMemberAccess=false

from dataclasses import dataclass

import torch
from torch import Tensor

from ...contract import MASK_SUM_NORMALIZERS, NORMALIZERS, accumulation_dtype
from ...layouts import grad_like
from . import level_table, plan
from .arguments import check, two_floats
from .geometry import Geometry, geometry, grads_are_pending
from .launcher import current_device, launch
from .level_table import with_addresses
from .loss import loss_kernel, single_kernel
from .mask import (
    SUM_ADDRESS,
    SUM_BLOCK,
    SUM_COLUMNS,
    mask_kernel,
    mask_sums_kernel,
)
from .plan import TL_DTYPES
from .reduce import (
    FACTOR_ROWS,
    THREADS,
    factors_kernel,
    finish_kernel,
    image_losses_kernel,
)
from .scale import ADDRESS, BLOCK, COLUMNS, MAX_PROGRAMS, scale_kernel


def mask(teacher_logits: list[Tensor]) -> list[Tensor]:
    """The operator ``mask``: one launch, of mask_kernel."""
    acc = accumulation_dtype(*teacher_logits)
    masks = [t.new_empty((t.shape[0], *t.shape[2:]), dtype=acc) for t in teacher_logits]
    with current_device(teacher_logits[0]):
        _launch_mask(_term([], teacher_logits, []), addresses_of(masks), acc)
    return masks


def loss(
    student_feats, teacher_feats, student_logits, teacher_logits, masks, channel_weights,
    normalizer, normalizer_value, normalizer_tensor,
    feat_scale, feat_scale_tensor, head_scale, head_scale_tensor,
    beta, feat_grad, head_grad, per_image,
):  # fmt: skip
    """The operator ``loss``: mask_kernel (or mask_sums_kernel where masks are given), factors_kernel,
    loss_kernel; or, where neither masks are given nor gradients wanted, single_kernel and finish_kernel.
    For losses per image, image_losses_kernel follows."""
    check(student_feats, teacher_feats, student_logits, teacher_logits, masks, channel_weights, per_image)
    first = (student_feats or student_logits)[0]
    feat_grads = [grad_like(t) for t in student_feats] if feat_grad else []
    logit_grads = [grad_like(t) for t in student_logits] if head_grad else []
    call = LossCall(
        feats=_term(student_feats, teacher_feats, feat_grads) if student_feats else None,
        logits=_term(student_logits, teacher_logits, logit_grads) if student_logits or not masks else None,
        masks=masks,
        channel_weights=channel_weights,
        acc=accumulation_dtype(first),
        normalizer=normalizer,
        scalars=(
            *two_floats(normalizer_value), normalizer_tensor,
            *two_floats(feat_scale), feat_scale_tensor,
            *two_floats(head_scale), head_scale_tensor,
        ),
        beta=beta,
        batch=first.shape[0] if per_image else None,
    )  # fmt: skip
    with current_device(first):
        results = call.loss_pass() if masks or feat_grad or head_grad else call.single_pass()
    return *results, feat_grads, logit_grads


def scale_(grads: list[Tensor], grad_output: Tensor, pending: Tensor) -> None:
    """The operator ``scale_``: one launch of scale_kernel for each dtype among the gradients."""
    torch._check(pending.numel() == len(grads), lambda: f"{len(grads)} grads, {pending.numel()} pending")
    if not grads:
        return
    if grad_output.dim():
        images = [len(grad) for grad in grads]
        torch._check(
            all(count == grad_output.numel() for count in images),
            lambda: f"grads of {images} images, grad_output of {grad_output.numel()}",
        )
    grad_output, pending = grad_output.contiguous(), pending.contiguous()
    with current_device(grads[0]):
        for dtype in dict.fromkeys(g.dtype for g in grads):
            of_dtype = {i: g for i, g in enumerate(grads) if g.dtype == dtype}
            _launch_scale(of_dtype, grad_output, pending)


def _launch_scale(grads: dict[int, Tensor], grad_output: Tensor, pending: Tensor) -> None:
    """One launch for gradients of one dtype. ``grads`` maps the position in ``pending`` to the gradient."""
    positions, tensors = zip(*grads.items(), strict=True)
    images = max(1, grad_output.numel())  # with a factor of their own
    planned = plan.plan_flat(tuple(g.numel() for g in tensors), BLOCK.value, positions, images)
    if planned.programs == 0:
        return
    addresses = addresses_of(tensors)
    table = with_addresses(planned.table, {ADDRESS.value: addresses}, COLUMNS.value)
    aligned = all(address % 16 == 0 for address in addresses)
    if images > 1:
        aligned = aligned and all(g.nbytes // images % 16 == 0 for g in tensors)
    dtypes = TL_DTYPES[tensors[0].dtype], TL_DTYPES[grad_output.dtype]
    launch(
        scale_kernel, min(planned.programs, MAX_PROGRAMS), grad_output.device,
        (table, grad_output, pending, planned.programs),
        (len(tensors), pending.numel(), aligned, *dtypes, images > 1),
    )  # fmt: skip


@dataclass
class TermTensors:
    """The tensors of one term, one per level. Logits that serve the mask alone have no students."""

    geometry: Geometry
    students: list[Tensor]
    teachers: list[Tensor]
    grads: list[Tensor]

    def table(self, planned: plan.LaunchPlan, masks: list[int], channel_weights: list[Tensor]):
        """The level table of a launch, with the addresses of this call."""
        addresses = {
            level_table.MASK: masks,
            level_table.CHANNEL_WEIGHT: addresses_of(channel_weights),
            level_table.GRAD: addresses_of(self.grads),
            level_table.STUDENT: addresses_of(self.students),
            level_table.TEACHER: addresses_of(self.teachers),
        }
        return with_addresses(planned.table, {column.value: of for column, of in addresses.items() if of})


def _term(students: list[Tensor], teachers: list[Tensor], grads: list[Tensor]) -> TermTensors:
    return TermTensors(geometry(students, teachers, bool(grads)), students, teachers, grads)


def addresses_of(tensors) -> list[int]:
    return [t.data_ptr() for t in tensors]


def sum_masks(masks: list[Tensor], needed: bool) -> tuple[tuple[int, ...], Tensor | None]:
    """(tile bounds, sums of the tiles) of given masks or weights; None for sums that are not needed."""
    planned = plan.plan_flat(tuple([mask.numel() for mask in masks]), SUM_BLOCK.value)
    if not needed:
        return planned.tile_bounds, None
    sums = masks[0].new_empty(planned.programs)
    if planned.programs:
        table = with_addresses(planned.table, {SUM_ADDRESS.value: addresses_of(masks)}, SUM_COLUMNS.value)
        constants = len(masks), TL_DTYPES[sums.dtype]
        launch(mask_sums_kernel, planned.programs, sums.device, (table, sums), constants)
    return planned.tile_bounds, sums


def _launch_mask(logits: TermTensors, masks: list[int], acc: torch.dtype, empty=None):
    """Writes the masks at these addresses, and the partial sums that ``empty(programs)`` allocates.

    Returns the tile bounds of the levels, and the partial sums (None without ``empty``).
    """
    planned = plan.plan_mask_pass(logits.geometry, acc)
    mask_sums = empty(planned.programs) if empty else None
    if planned.programs:
        table = logits.table(planned, masks, [])
        device = logits.teachers[0].device
        launch(mask_kernel, planned.programs, device, (table, mask_sums), (planned.config,))
    return planned.tile_bounds, mask_sums


@dataclass
class LossCall:
    """The launches of one call of ``loss``."""

    feats: TermTensors | None
    logits: TermTensors | None  # without students where it serves the mask alone
    masks: list[Tensor]  # empty: the mask of the teacher's logits
    channel_weights: list[Tensor]
    acc: torch.dtype
    normalizer: int  # code, see contract.NORMALIZERS
    scalars: tuple  # normalizer, feature scale, head scale: each (high float, low float, tensor or None)
    beta: float
    batch: int | None  # images whose losses are wanted one by one; None: their sums are

    def __post_init__(self):
        self.head = self.logits if self.logits and self.logits.students else None
        self.geometries = [term and term.geometry for term in (self.head, self.feats)]
        self.mask_sizes = (self.feats or self.logits).geometry.mask_sizes
        self.device = (self.feats or self.logits).teachers[0].device
        self.options = self.acc, self.beta, bool(self.channel_weights)

    def loss_pass(self) -> tuple[Tensor, Tensor, Tensor]:
        """(losses, level_losses, pending): Z_l of every level, then losses and gradients in one pass."""
        tile_bounds, mask_sums, masks, _storage = self._masks_and_sums()
        levels = len(self.mask_sizes)
        losses, level_losses, pending = self._empty_results()
        factors = self._empty(FACTOR_ROWS, 2, levels)
        counters = self._empty(2 * levels + 1, dtype=torch.int32)
        table = plan.factor_table(tile_bounds, *self.geometries, self.normalizer)
        head_pending, feat_pending = map(grads_are_pending, self.geometries)
        self._launch(
            factors_kernel, levels,
            (table, mask_sums, factors, pending, counters, level_losses, losses, *self.scalars),
            (self.normalizer, feat_pending, head_pending, levels, TL_DTYPES[self.acc]), threads=THREADS,
        )  # fmt: skip
        head, feat = plan.plan_loss_pass(*self.geometries, *self.options)
        bounds = plan.tile_bounds_of_terms(*(term and term.tile_bounds for term in (feat, head)))
        partials = self._empty(sum(term.programs for term in (feat, head) if term))
        if len(partials):
            tensors = factors, partials, counters, level_losses, losses
            self._launch_loss(head, feat, masks, (bounds, *tensors))
        if self.batch is not None:
            losses = self._image_losses(bounds, partials, None)
        return losses, level_losses, pending

    def single_pass(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same without gradients: every input is read once, and S is known only at the end."""
        head, feat = plan.plan_single_pass(self.logits.geometry, self.geometries[1], *self.options)
        terms = self.feats, self.head
        sums = self._empty(1 + sum(map(bool, terms)), max(head.programs, 1))
        mask_sums, *of_terms = reversed(sums.unbind())
        feat_sums, head_sums = (of_terms.pop() if term else None for term in terms)
        if head.programs:
            head_table = self.logits.table(head, [], [])
            feat_table = self.feats.table(feat, [], self.channel_weights) if feat else None
            self._launch(
                single_kernel, head.programs,
                (head_table, feat_table, mask_sums, feat_sums, head_sums),
                (head.config, feat and feat.config, self.head is not None),
            )  # fmt: skip
        losses, level_losses, pending = self._empty_results()
        levels = len(self.mask_sizes)
        factors = None if self.batch is None else self._empty(FACTOR_ROWS, 2, levels)
        table = plan.factor_table(head.tile_bounds, *self.geometries, self.normalizer)
        self._launch(
            finish_kernel, 1,
            (table, mask_sums, feat_sums, head_sums, factors, pending, level_losses, losses, *self.scalars),
            (self.normalizer, levels, TL_DTYPES[self.acc]), threads=THREADS,
        )  # fmt: skip
        if self.batch is not None:
            # The sums of both terms are one after the other, and each term has the tiles of the logits.
            bounds = plan.tile_bounds_of_terms(*(term and head.tile_bounds for term in terms))
            losses = self._image_losses(bounds, sums, factors)
        return losses, level_losses, pending

    def _image_losses(self, bounds: tuple[int, ...], sums: Tensor, factors: Tensor | None) -> Tensor:
        """losses [3, B] from the sums of tiles, which ``factors`` multiply."""
        assert self.batch is not None
        losses = self._empty(3, self.batch)
        if self.batch:
            constants = len(self.mask_sizes), TL_DTYPES[self.acc]
            self._launch(image_losses_kernel, self.batch, (bounds, sums, factors, losses), constants)
        return losses

    def _empty_results(self) -> tuple[Tensor, Tensor, Tensor]:
        """losses, their sums over the images; level_losses; pending"""
        levels = len(self.mask_sizes)
        return self._empty(3), self._empty(2, levels), self._empty(2, levels)

    def _masks_and_sums(self):
        """(tile bounds of the partial sums of S, these sums or None, addresses of the masks, their
        storage)"""
        needs_sums = NORMALIZERS[self.normalizer] in MASK_SUM_NORMALIZERS
        if not self.masks:
            storage, masks = self._empty(sum(self.mask_sizes)), []
            address = storage.data_ptr()
            for size in self.mask_sizes:
                masks.append(address)
                address += size * storage.element_size()
            empty = self._empty if needs_sums else None
            assert self.logits is not None
            return *_launch_mask(self.logits, masks, self.acc, empty), masks, storage
        return *sum_masks(self.masks, needs_sums), addresses_of(self.masks), self.masks

    def _launch_loss(self, head, feat, masks: list[int], arguments: tuple) -> None:
        """Launches loss_kernel with the plans of both terms."""
        head_tiles, feat_tiles = head.programs if head else 0, feat.programs if feat else 0
        head_table = self.head.table(head, masks, []) if head else None
        feat_table = self.feats.table(feat, masks, self.channel_weights) if feat else None
        channel_blocks = head.channel_blocks if head else 0, feat.channel_blocks if feat else 0
        configs = head and head.config, feat and feat.config
        self._launch(
            loss_kernel, head_tiles + feat_tiles,
            (head_table, feat_table, *arguments, head_tiles, feat_tiles, *channel_blocks),
            (*configs, TL_DTYPES[self.acc]),
            max_registers=plan.max_loss_registers(*configs),
        )  # fmt: skip

    def _empty(self, *sizes: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(sizes, dtype=dtype or self.acc, device=self.device)

    def _launch(self, kernel, programs: int, arguments: tuple, constants: tuple, **options) -> None:
        launch(kernel, programs, self.device, arguments, constants, **options)
