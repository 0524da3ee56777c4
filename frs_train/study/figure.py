"""The figure of a study: every run, the means, and the differences to the baselines with their intervals."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from frs_train.evaluation.pictures import PLAIN
from frs_train.report.runs import COLOURS
from frs_train.study.outcome import DataOutcome, Outcome
from frs_train.study.statistics import difference, pairs, summary
from frs_train.text import printable


def figure(outcome: Outcome) -> Figure:
    """One row of panels for each data set: mAP of every run, then a panel of differences per baseline."""
    columns = 1 + len(outcome.baselines)
    arms = max(len(data.arms) for data in outcome.data.values())
    drawn = Figure((4.2 * columns, (0.9 + 0.33 * arms) * len(outcome.data)), dpi=110, layout="constrained")
    axes = drawn.subplots(len(outcome.data), columns, squeeze=False)
    for row, (name, data) in zip(axes, outcome.data.items(), strict=True):
        _runs(row[0], f"{name}: mAP of each seed, mean", data)
        for axis, base in zip(row[1:], outcome.baselines, strict=True):
            _differences(axis, f"{name}: minus {base}, by seed", data, base)
    return drawn


def _runs(axis: Axes, title: str, data: DataOutcome) -> None:
    for place, arm in enumerate(data.arms.values()):
        values, colour = arm.scores(), COLOURS[place % len(COLOURS)]
        axis.plot(list(values.values()), [place + 0.12] * len(values), "o", color=colour, alpha=0.55, ms=4)
        if found := summary(values):
            axis.plot([found.mean] * 2, [place - 0.32, place + 0.32], color=colour, linewidth=2)
    _panel(axis, title, data)


def _differences(axis: Axes, title: str, data: DataOutcome, base: str) -> None:
    theirs = data.arms[base].scores()
    axis.axvline(0, color="#888888", linewidth=1)
    for place, (name, arm) in enumerate(data.arms.items()):
        ours, colour = arm.scores(), COLOURS[place % len(COLOURS)]
        found = difference(ours, theirs)
        if name == base or found is None:
            continue
        single = pairs(ours, theirs)
        axis.plot(single, [place + 0.18] * len(single), "o", color=colour, alpha=0.55, ms=4)
        if found.low is not None and found.high is not None:
            axis.plot([found.low, found.high], [place - 0.12] * 2, color=colour, linewidth=2)
        axis.plot([found.mean], [place - 0.12], "D", color=colour, ms=5)
    _panel(axis, title, data)


def _panel(axis: Axes, title: str, data: DataOutcome) -> None:
    axis.set_title(printable(title), fontsize=10, loc="left", **PLAIN)
    axis.set_yticks(range(len(data.arms)), [printable(name) for name in data.arms])
    axis.set_ylim(len(data.arms) - 0.4, -0.6)
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
