"""Loader processes: they read batches ahead of the training and never outlive it."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from frs_kernels.torch_private import end_loading
from frs_train.data.dataset import Sample
from frs_train.errors import UserError
from frs_train.interrupt import SIGNALS


class Batch(list):
    """Samples that are sent between processes as bytes in a pipe.

    By default torch stores each tensor in a file in /dev/shm. A container has 64 MiB there; once they are
    full, a loader process dies or hangs.
    """

    def __reduce__(self):
        return _unpacked, ([(image.numpy(), {k: v.numpy() for k, v in t.items()}) for image, t in self],)


def _unpacked(arrays: list) -> Batch:
    tensor = torch.from_numpy
    return Batch((tensor(image), {k: tensor(v) for k, v in target.items()}) for image, target in arrays)


def collate(samples: list[Sample | UserError]) -> Batch | UserError:
    """A batch of samples, or the first error among them."""
    return next((s for s in samples if isinstance(s, UserError)), None) or Batch(samples)


def collate_readable(samples: list[Sample | UserError]) -> tuple[Batch, list[UserError]]:
    """A batch of the samples that could be read, and the errors of the others."""
    errors = [sample for sample in samples if isinstance(sample, UserError)]
    return Batch(sample for sample in samples if not isinstance(sample, UserError)), errors


@contextlib.contextmanager
def loaded(
    dataset: Dataset,
    batches: Iterable[list],
    workers: int,
    device: torch.device,
    collate: Callable[[list], Any] = collate,
) -> Iterator[Iterator[Any]]:
    """Loads the given batches of items in order, ahead of their use. Yields what `collate` makes of the
    samples of each batch. An item of `CocoDetection` is (index, draw).

    The loader processes end with the block. If the garbage collector ended them, an exception that refers to
    them could keep them alive, and Python would wait for them at exit, forever, because they ignore signals.

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
        with _signals_deferred():
            iterator = iter(loader)
        with _death_reported():
            yield _watched(iterator)
    finally:
        if workers and iterator is not None:
            _end(iterator)


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Defers SIGINT and SIGTERM to the end of the block: a new loader process inherits the handlers of its
    parent and would run them until it ignores the signals. Windows has no such mask and needs none: its
    processes do not inherit handlers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watched(iterator: Iterator) -> Iterator:
    while True:
        with _death_reported():
            batch = next(iterator, None)
        if batch is None:
            return
        yield batch


@contextlib.contextmanager
def _death_reported() -> Iterator[None]:
    """Reports the death of a loader process as a `UserError`. torch raises a `RuntimeError` for it, wherever
    the training is at that moment."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"A loader process has died: {str(error).splitlines()[0]} The system kills processes when memory "
            "is low: use fewer --workers, or 0, and continue with --resume."
        ) from None


def _end(iterator) -> None:
    """Ends the loader processes. torch asks them to exit, waits for seconds, and sends a signal that they
    ignore; one that hangs, for example in a read from a lost disk, is then killed."""
    for process in end_loading(iterator):
        process.kill()
        process.join()


def _start_worker(_: int) -> None:
    """Sets up a loader process: one thread, and no reaction to the signals by which a launcher or terminal
    stops the whole process group. The training process still needs its last batches, and ends its loaders
    itself.

    Objects from before the fork are hidden from the garbage collector: it would write to each of them, and so
    copy every memory page that is shared with the parent.
    """
    torch.set_num_threads(1)
    gc.freeze()
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_with(parent) -> None:
    """Exits once the parent process is gone. A loader process whose training was killed would hang on its
    full pipe.

    Windows reports the same parent as long as a process lives. On Linux a forked sibling may keep the parent
    alive in the eyes of `is_alive`.
    """
    while os.getppid() == parent.pid and parent.is_alive():
        time.sleep(1)
    os._exit(1)


def to_device(batch: Batch | UserError, device: torch.device) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images as float32 in [0, 1], and targets, on the device. Raises the batch if it is an error."""
    if isinstance(batch, UserError):
        raise batch
    images = [image.to(device, non_blocking=True).float().div_(255) for image, _ in batch]
    targets = [{k: v.to(device, non_blocking=True) for k, v in target.items()} for _, target in batch]
    return images, targets
