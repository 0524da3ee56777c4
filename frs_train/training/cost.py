"""The cost of a run: seconds per iteration and peak memory."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None


class Timer:
    """Measures seconds per iteration, without pauses."""

    def __init__(self, iteration: int):
        self.first = self.last = iteration
        self.lapped = self.elapsed = 0.0
        self.since = time.perf_counter()

    def _now(self) -> float:
        return self.elapsed + time.perf_counter() - self.since

    def lap(self, iteration: int) -> float:
        """Mean seconds per iteration since the last lap."""
        now, count = self._now(), iteration - self.last
        seconds = (now - self.lapped) / max(count, 1)
        self.last, self.lapped = iteration, now
        return seconds

    def mean(self) -> float | None:
        """Mean seconds per iteration up to the last lap; None before the first lap."""
        count = self.last - self.first
        return self.lapped / count if count else None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time in this block is not counted."""
        self.elapsed = self._now()
        try:
            yield
        finally:
            self.since = time.perf_counter()


def peak_memory_mb(device: torch.device) -> float | None:
    """Peak memory of this process so far in MiB: GPU memory on a GPU, otherwise resident memory; None where
    the system does not tell it."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
