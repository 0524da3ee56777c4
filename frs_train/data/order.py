"""The order of the training images, a pure function of the seed.

Batch i of a run, and every random draw made for its images, depend on the seed and i alone: not on the number
of loader processes, of training processes, or on where a run was interrupted. So a resumed run needs no saved
state.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from frs_train.errors import UserError
from frs_train.streams import Stream, seed_of


class TrainingOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (index, draw) for one process, from iteration `start` on.

    Each iteration takes the next `batch_size` positions of an endless sequence of shuffled epochs. They are
    split into world x accumulate equal micro-batches, of which this process gets `accumulate` consecutive
    ones.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
    ):
        if batch_size % (world * parts):
            raise UserError(
                f"A batch of {batch_size} images cannot be split evenly over {world} processes x {parts} "
                "micro-batches. Choose a --batch-size that is a multiple of their product."
            )
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.start, self.stop, self.rank, self.parts = start, stop, rank, parts
        self.share = batch_size // (world * parts)
        self._order = functools.lru_cache(maxsize=2)(self._shuffle)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.parts

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for iteration in range(self.start, self.stop):
            for part in range(self.parts):
                first = iteration * self.batch_size + (self.rank * self.parts + part) * self.share
                yield [self._item(position) for position in range(first, first + self.share)]

    def _item(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, self.images)
        return int(self._order(epoch)[offset]), seed_of(self.seed, Stream.AUGMENTATION, position)

    def _shuffle(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(self.seed, Stream.ORDER, epoch))
        return torch.randperm(self.images, generator=generator)
