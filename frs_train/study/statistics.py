"""Means, deviations, and differences of runs that share a seed, with intervals of confidence."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (of a sample; None for a single value) of `count` values."""

    count: int
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Difference:
    """The mean of the differences of `count` pairs, and its interval of confidence by Student's t.

    `low` and `high` are None for a single pair.
    """

    count: int
    mean: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """Whether the interval is above 0, below it, or holds it."""
        if self.low is None or self.high is None:
            return "one pair"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"


def summary(values: Mapping[int, float]) -> Summary | None:
    """The summary of values by seed; None if there are none."""
    if not values:
        return None
    numbers = list(values.values())
    return Summary(
        len(numbers), statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None
    )


def pairs(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """`ours` minus `theirs` for each seed that both have."""
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """`ours` minus `theirs`, paired by seed; seeds that one of them lacks are left out. None without pairs.

    Runs of one seed share initial weights and images, so that their difference varies less than they do.
    """
    found = pairs(ours, theirs)
    if not found:
        return None
    mean = statistics.fmean(found)
    if len(found) == 1:
        return Difference(1, mean, None, None)
    if len(set(found)) == 1:  # no spread at all; scipy's interval would be NaN
        return Difference(len(found), mean, mean, mean)
    interval = stats.ttest_1samp(found, 0.0).confidence_interval(CONFIDENCE)
    return Difference(len(found), mean, float(interval.low), float(interval.high))
