"""The launches of one loss call: mask, factors, loss; or, with no gradient wanted, one pass and its end."""

from dataclasses import dataclass

import torch
from torch import Tensor

from frs_kernels.backends.triton import plan
from frs_kernels.backends.triton.loss import loss_kernel, single_kernel
from frs_kernels.backends.triton.mask import ADD, mask_kernel, weight_sums
from frs_kernels.backends.triton.plan import DTYPES, NUM_WARPS, Levels
from frs_kernels.backends.triton.reduce import factors_kernel, finish_kernel
from frs_kernels.backends.triton.tiles import encode

_WEIGHT, _WEIGHT_CHANNELS, _BATCH, _NUMEL = range(4)  # levels.NORMALIZERS


def launch_mask(logits: Levels, maps: list[int], acc: torch.dtype, sums):
    """Fills the maps at these addresses, and the partial sums that ``sums(n)`` allocates, if not None.

    Returns the bounds of each level's partial sums, and the sums.
    """
    tile = plan.mask_tile(logits.layout, max(logits.channels), acc)
    starts, tiles = plan.starts(plan.location_tiles(logits, tile))
    partials = sums(tiles) if sums else None
    if tiles:
        table = logits.table(starts, maps)
        mask_kernel[(tiles,)](table, partials, term=logits.term(tile, acc), num_warps=NUM_WARPS)
    return starts + [tiles], partials


@dataclass
class LossCall:
    """One loss call. ``logits`` has no students where it serves the mask alone."""

    feats: Levels | None
    logits: Levels | None
    weights: list[Tensor]
    channel_weights: list[Tensor]
    acc: torch.dtype
    normalizer: int
    numbers: tuple  # divisor, feature scale, head scale: each (float, its rest, tensor or None)
    beta: float

    def __post_init__(self):
        self.levels = self.feats or self.logits
        self.rows = len(self.levels.some)
        self.head = self.logits if self.logits and self.logits.students else None
        self.sizes = [b * n for b, n in zip(self.levels.batch, self.levels.locations, strict=True)]

    def two_phases(self) -> tuple[Tensor, Tensor]:
        """(losses, pending): first Z_l of every level, then losses and gradients with one read of each."""
        bounds, sums, maps, keep = self._weigh()
        losses, pending = self._empty(3), self._empty(2, self.rows)
        factors, counter = self._empty(6 * self.rows), self._empty(1, dtype=torch.int32)
        factors_kernel[(self.rows,)](
            self._ranges(bounds), sums, factors, pending, counter, losses, *self.numbers,
            NORMALIZER=self.normalizer,
            FEAT_PENDING=_half(self.feats), HEAD_PENDING=_half(self.head),
            ROWS=self.rows, ACC=DTYPES[self.acc], num_warps=NUM_WARPS,
        )  # fmt: skip
        self._launch_loss(factors, counter, losses, maps)
        return losses, pending

    def single_pass(self) -> tuple[Tensor, Tensor]:
        """The same without gradients: every input is read once, and S is known only at the end."""
        parts = [part for part in (self.logits, self.feats) if part]
        tile = plan.single_tile([part.layout for part in parts], self.acc)
        starts, tiles = plan.starts(plan.location_tiles(self.logits, tile))
        partials = self._empty(3, max(tiles, 1)).unbind()
        errors, entropies = (partials[1] if self.feats else None), (partials[2] if self.head else None)
        nowhere = [0] * self.rows
        if tiles:
            single_kernel[(tiles,)](
                self.logits.table(starts, nowhere),
                self.feats.table(starts, nowhere, self._channel_weights()) if self.feats else None,
                partials[0], errors, entropies,
                head_term=self.logits.term(tile, self.acc, beta=self.beta),
                feat_term=self._feat_term(tile) if self.feats else None,
                HEAD=self.head is not None, num_warps=NUM_WARPS,
            )  # fmt: skip
        losses, pending = self._empty(3), self._empty(2, self.rows)
        finish_kernel[(1,)](
            self._ranges(starts + [tiles]), partials[0], errors, entropies, losses, pending, *self.numbers,
            NORMALIZER=self.normalizer, ROWS=self.rows, ACC=DTYPES[self.acc], num_warps=NUM_WARPS,
        )  # fmt: skip
        return losses, pending

    def _empty(self, *sizes: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(sizes, dtype=dtype or self.acc, device=self.levels.some[0].device)

    def _weigh(self):
        """(bounds of each level's partial sums of S, the sums, addresses of the maps, what owns them)"""
        needed = self.normalizer in (_WEIGHT, _WEIGHT_CHANNELS)
        if not self.weights:
            owner = self._empty(sum(self.sizes))
            first, _ = plan.starts(self.sizes)
            maps = [owner.data_ptr() + owner.element_size() * i for i in first]
            return *launch_mask(self.logits, maps, self.acc, self._empty if needed else None), maps, owner
        maps = [w.data_ptr() for w in self.weights]
        starts, programs = plan.starts([-(-size // ADD.value) for size in self.sizes])
        sums = self._empty(programs) if needed else None
        if needed and programs:
            rows = zip(starts, maps, self.sizes, strict=True)
            weight_sums[(programs,)](
                encode(v for row in rows for v in row), sums,
                ROWS=self.rows, ACC=DTYPES[self.acc], num_warps=NUM_WARPS,
            )  # fmt: skip
        return starts + [programs], sums, maps, self.weights

    def _ranges(self, bounds: list[int]) -> tuple[int, ...]:
        """The table of reduce.py."""
        feats, logits = self._counts(self.feats), self._counts(self.head)
        rows = zip(bounds[:-1], bounds[1:], feats, logits, strict=True)
        return encode(v for row in rows for v in row)

    def _counts(self, part: Levels | None) -> list[int]:
        """What N_l is multiplied by or, for "batch" and "numel", replaced by."""
        if part is None or self.normalizer == _BATCH:
            return self.levels.batch
        if self.normalizer == _NUMEL:
            return [size * channels for size, channels in zip(self.sizes, part.channels, strict=True)]
        return part.channels

    def _launch_loss(self, factors: Tensor, counter: Tensor, losses: Tensor, maps: list[int]) -> None:
        parts = [part for part in (self.head, self.feats) if part]
        shapes = [plan.loss_tile(part.layout, max(part.channels), self.acc) for part in parts]
        steps = plan.steps(list(zip(parts, shapes, strict=True)))
        tables, terms, counts, chosen = [None, None], [None, None], [0, 0], [0, 0]
        for part, shape, step in zip(parts, shapes, steps, strict=True):
            is_feat = part is self.feats
            starts, counts[is_feat] = plan.starts(plan.chunk_tiles(part, shape, step))
            tables[is_feat] = part.table(starts, maps, self._channel_weights() if is_feat else None)
            terms[is_feat] = self._feat_term(shape) if is_feat else part.term(shape, self.acc, beta=self.beta)
            chosen[is_feat] = step
        if sum(counts):
            loss_kernel[(sum(counts),)](
                *tables, factors, self._empty(sum(counts)), counter, losses, *counts, *chosen,
                head_term=terms[0], feat_term=terms[1], ACC=DTYPES[self.acc], num_warps=NUM_WARPS,
            )  # fmt: skip

    def _channel_weights(self) -> list[int] | None:
        return [c.data_ptr() for c in self.channel_weights] or None

    def _feat_term(self, tile: plan.Shape):
        return self.feats.term(tile, self.acc, channel_weights=bool(self.channel_weights))


def _half(part: Levels | None) -> bool:
    """Whether the gradient is stored without scale / Z_l, which the backward then applies."""
    return part is not None and bool(part.grads) and part.grads[0].dtype == torch.float16
