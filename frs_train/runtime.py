"""What surrounds a loop: signals that ask it to stop, deterministic kernels, and a clock that can be
paused."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from frs_train.interrupt import SIGNALS


class Signals:
    """SIGTERM and SIGINT as a run hears them: noted, and obeyed where the run can stop.

    A block under `interruptible` is left at once, by `KeyboardInterrupt`. Everywhere else the run looks at
    `caught`, the number of the first signal (0 before it). A second one of the same number does what it did
    before: it ends the process. (Ctrl-C under torchrun comes as SIGINT, and as SIGTERM a moment later.)
    """

    def __init__(self) -> None:
        self.caught = 0
        self._open = False
        self._before: dict[int, Any] = {}

    @contextlib.contextmanager
    def heard(self) -> Iterator[Signals]:
        """Listens as long as the block lasts."""
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in self._before:
            signal.signal(number, self._note)
        try:
            yield self
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A signal ends this block at once; one that came before it ends it at its start."""
        try:
            self._open = True
            self._obey()
            yield
            self._obey()  # Python drops what a handler raises inside a destructor or a callback of C code
        finally:
            self._open = False

    def _obey(self) -> None:
        if self.caught:
            self._open = False  # what is done about the signal is not interrupted by it
            raise KeyboardInterrupt

    def _note(self, number: int, _: object) -> None:
        self.caught = self.caught or number
        signal.signal(number, self._before[number])
        if self._open:
            self._obey()


@contextlib.contextmanager
def reproducible(enabled: bool) -> Iterator[None]:
    """Deterministic kernels where torch has them, as long as the block lasts."""
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


class Timer:
    """Seconds per iteration, less the pauses."""

    def __init__(self, iteration: int):
        self.first = self.last = iteration
        self.lapped = self.elapsed = 0.0
        self.since = time.perf_counter()

    def _now(self) -> float:
        return self.elapsed + time.perf_counter() - self.since

    def lap(self, iteration: int) -> float:
        """Mean seconds of the iterations since the last lap."""
        now, count = self._now(), iteration - self.last
        seconds = (now - self.lapped) / max(count, 1)
        self.last, self.lapped = iteration, now
        return seconds

    def mean(self) -> float | None:
        """Mean seconds of all iterations up to the last lap; None before the first."""
        count = self.last - self.first
        return self.lapped / count if count else None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count."""
        self.elapsed = self._now()
        try:
            yield
        finally:
            self.since = time.perf_counter()
