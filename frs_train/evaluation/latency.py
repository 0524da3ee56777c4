"""The times of several calls, measured in turns.

`torch.utils.benchmark.Timer` measures one statement to its end, in blocks of calls, and imports the compiler
of C++ extensions. Here the calls take turns, so that a change of the machine's speed meets all of them, and
each call is timed alone, so that the spread is that of single calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

TURNS = 10


@dataclass(frozen=True)
class Latency:
    """The distribution of the time of a call, in seconds."""

    median: float
    p10: float
    p90: float
    calls: int
    """Number of timed calls."""

    @classmethod
    def of(cls, times: Sequence[float]) -> Latency:
        """The distribution of these times (one or more)."""
        p10, median, p90 = np.quantile(times, [0.1, 0.5, 0.9]).tolist()
        return cls(median, p10, p90, len(times))

    @property
    def spread(self) -> float:
        """The distance of the 10th and the 90th percentile as a fraction of the median."""
        return (self.p90 - self.p10) / self.median


def now() -> float:
    """Seconds since any moment, when the accelerator has ended its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def measure_in_turns(
    calls: Sequence[Callable[[], object]],
    seconds: float,
    tell: Callable[..., None] = lambda **news: None,
    clock: Callable[[], float] = now,
) -> list[Latency]:
    """The latency of each call, in the order of `calls`.

    Each call has `TURNS` turns. A turn is one call that is not timed, because the others have replaced the
    content of the caches, and then timed calls: at least one, and more until `seconds / TURNS` have passed.
    Every second round takes the calls in reverse order, so that a steady drift of the machine favors none.

    Args:
        seconds: time for the timed calls of each of `calls`.
        tell: reports the progress, `TURNS` steps for each of `calls` (see `Log.progress`).
        clock: see `now`.
    """
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(TURNS):
        for number in range(len(calls))[:: -1 if turn % 2 else 1]:
            times[number] += _one_turn(calls[number], seconds / TURNS, clock)
            tell(advance=1)
    return [Latency.of(taken) for taken in times]


def _one_turn(call: Callable[[], object], seconds: float, clock: Callable[[], float]) -> list[float]:
    call()
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = clock()
        call()
        times.append(clock() - start)
    return times
