"""Loader processes: they read batches ahead of the training, and end with it."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from frs_train.data.dataset import CocoDetection, Sample
from frs_train.errors import UserError
from frs_train.interrupt import SIGNALS


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
