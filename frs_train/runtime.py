"""What surrounds a loop: signals that ask it to stop, deterministic kernels, and a clock that can be
paused."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in a list instead of dying of them; a second one ends the process as
    usual."""
    caught: list[int] = []

    def handler(number: int, _) -> None:
        caught.append(number)
        signal.signal(number, before[number])

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)


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
