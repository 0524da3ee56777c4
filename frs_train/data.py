"""Images and boxes for a detector, in an order that is a pure function of the seed.

Batch i of a run, and every random draw made for its images, depend on the seed and i alone: not on the
number of loader processes, of training processes, or on where a run was interrupted. So a resumed run needs
no saved state.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from frs_train.coco import CocoFile
from frs_train.config import DataConfig
from frs_train.errors import UserError
from frs_train.images import find, read_image, resembling
from frs_train.interrupt import SIGNALS

Sample = tuple[Tensor, dict[str, Tensor]]


class CocoDetection(Dataset):
    """The images of a `CocoFile` with their boxes.

    Item (index, draw) is an image uint8 [3, H, W] and a target with `boxes` float32 [n, 4] (xyxy, pixels),
    `labels` int64 [n] (1 is the first class) and `image_id`; what is marked as crowd or to be ignored is left
    out. `draw` seeds the augmentation; None applies none. A loader process cannot raise a clean error, so an
    unreadable image is returned as a `UserError`.
    """

    def __init__(self, coco: CocoFile, folder: Path, transform: v2.Transform | None = None):
        self.coco, self.folder, self.transform = coco, folder, transform
        if not folder.is_dir():
            raise UserError(f"Image folder {folder} does not exist.")
        names = [find(folder, name) for name in coco.images.names]
        if None in names:
            raise UserError(self._missing(names))
        self.names = np.array(names, dtype=np.dtypes.StringDType())
        labels = {category["id"]: label for label, category in enumerate(coco.categories, start=1)}
        self.learnt = coco.annotations.learnt
        self.labels = np.array([labels[c] for c in coco.annotations.category.tolist()], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.coco.images)

    def __getitem__(self, item: tuple[int, int | None]) -> Sample | UserError:
        index, draw = item
        record = self.coco.images[index]
        try:
            image = read_image(self.folder / self.names[index], record["width"], record["height"])
        except UserError as error:
            return error
        boxes, labels = self._boxes(index)
        if draw is not None and self.transform is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(draw)
                image, boxes = self.transform(image, boxes)
        target = {
            "boxes": boxes.as_subclass(Tensor),
            "labels": labels,
            "image_id": torch.tensor(record["id"]),
        }
        return image.as_subclass(Tensor), target

    def _boxes(self, index: int) -> tuple[tv_tensors.BoundingBoxes, Tensor]:
        rows = self.coco.annotations.of(index)
        learnt = self.learnt[rows]
        boxes = torch.from_numpy(self.coco.annotations.boxes[rows][learnt])
        size = self.coco.images.sizes[index, ::-1].tolist()
        return (
            tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=tuple(size)),
            torch.from_numpy(self.labels[rows][learnt]),
        )

    def _missing(self, found: list[str | None]) -> str:
        missing = [name for name, file in zip(self.coco.images.names, found, strict=True) if file is None]
        near = resembling(self.folder, missing[0])
        text = f" (there is {near!r}, whose letters differ in case)" if near else ""
        return (
            f"{len(missing)} of {len(found)} images of {self.coco.path} are missing in {self.folder}, the "
            f"first is {missing[0]!r}{text}. Copy them there, or give the folder that their file names are "
            "relative to."
        )


def augmentation(config: DataConfig) -> v2.Transform:
    """The training transforms. Resizing is the detector's, so that evaluation and training agree on it."""
    j = config.jitter
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip(config.flip)]
    if j:
        steps.append(v2.ColorJitter(brightness=j, contrast=j, saturation=j))
    return v2.Compose(steps)


def mix(*numbers: int) -> int:
    """A seed in [0, 2^63) from several numbers (splitmix64's finaliser, folded over them)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ number) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        state = (state ^ state >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
        state ^= state >> 31
    return state >> 1


class TrainingOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (index, draw) for one process, from iteration `start` on.

    Each iteration takes the next `batch_size` positions of an endless sequence of shuffled epochs. They are
    dealt into world x accumulate equal parts; this process gets `accumulate` of them, one after the other.
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
                f"A batch of {batch_size} images cannot be dealt evenly to {world} processes x {parts} "
                "accumulated parts. Choose --batch-size as a multiple of their product."
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
        return int(self._order(epoch)[offset]), mix(self.seed, 1, position)

    def _shuffle(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(mix(self.seed, 2, epoch))
        return torch.randperm(self.images, generator=generator)


class Batch(list):
    """Samples that travel between processes as bytes in a pipe.

    Left to torch, each tensor takes a file in /dev/shm. A container has 64 MiB there: when they are full, a
    loader process dies or waits for ever.
    """

    def __reduce__(self):
        return _unpacked, ([(image.numpy(), {k: v.numpy() for k, v in t.items()}) for image, t in self],)


def _unpacked(arrays: list) -> Batch:
    tensor = torch.from_numpy
    return Batch((tensor(image), {k: tensor(v) for k, v in target.items()}) for image, target in arrays)


@contextlib.contextmanager
def loaded(
    dataset: CocoDetection, batches: Sampler | list, workers: int, device: torch.device
) -> Iterator[Iterator[Batch | UserError]]:
    """Loads the given batches of (index, draw) in order, ahead of the training.

    The loader processes end with the block. Left to the garbage collector they may outlive it (an exception
    still refers to them), and Python waits for them at its end: deaf as they are, for ever.

    Raises `UserError` if a loader process was killed.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker,
    )
    iterator = None
    try:
        with _signals_held():
            iterator = iter(loader)
        with _death_told():
            yield _watched(iterator)
    finally:
        if workers and iterator is not None:
            _end(iterator)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Signals that ask to stop are heard after the block, not in it: a loader process that is not yet deaf to
    them would act in its parent's place."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watched(iterator: Iterator) -> Iterator:
    while True:
        with _death_told():
            batch = next(iterator, None)
        if batch is None:
            return
        yield batch


@contextlib.contextmanager
def _death_told() -> Iterator[None]:
    """torch raises a `RuntimeError` if a loader process dies, wherever the training is at that moment."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"A loader process has died: {str(error).splitlines()[0]} The system ends processes when memory "
            "is short: give fewer --workers, or none (0), and go on with --resume."
        ) from None


def _end(iterator) -> None:
    """Ends the loader processes. torch asks them to, waits for seconds, and sends a signal that they do not
    hear; one that is stuck, in a read from a lost disk say, is then killed."""
    processes = iterator._workers
    iterator._shutdown_workers()
    for process in processes:
        process.kill()
        process.join()


def collate(samples: list[Sample | UserError]) -> Batch | UserError:
    """A batch of samples, or the first error among them."""
    return next((s for s in samples if isinstance(s, UserError)), None) or Batch(samples)


def _start_worker(_: int) -> None:
    """One thread a loader process; and deaf to the signals by which a launcher or terminal asks the whole
    group to stop: the training process still needs its last batches, and ends its loaders itself.

    What was there before the fork is kept from the garbage collector, which would write to all of it and so
    copy it.
    """
    torch.set_num_threads(1)
    gc.freeze()
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process().pid,), daemon=True).start()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_with(parent: int) -> None:
    """A loader process whose training was killed would wait for ever to hand over what is in its pipe."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def to_device(batch: Batch | UserError, device: torch.device) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images as float32 in [0, 1], and targets, on the device. Raises the batch if it is an error."""
    if isinstance(batch, UserError):
        raise batch
    images = [image.to(device, non_blocking=True).float().div_(255) for image, _ in batch]
    targets = [{k: v.to(device, non_blocking=True) for k, v in target.items()} for _, target in batch]
    return images, targets
