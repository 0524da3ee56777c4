"""The figure of a report that shows what each level contributes to the distillation, and the warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from frs_train.report.figures import panel, scale
from frs_train.training.terms import TERMS

if TYPE_CHECKING:
    from frs_train.report.runs import Run


def level_curves(runs: Sequence[Run]) -> Figure | None:
    """A row for each run with a teacher; None if there is none.

    A panel for each term of its distillation shows what the levels contribute, beside the sum of the
    detection losses; the last one the gradients of the terms, relative to that of the detection losses.
    """
    taught = [run for run in runs if any(line.get("levels") for line in run.train)]
    if not taught:
        return None
    terms = [terms_of(run) for run in taught]
    columns = max(map(len, terms)) + 1
    figure = Figure((4 * columns, 2.9 * len(taught)), dpi=100, layout="constrained")
    for row, run, own in zip(
        figure.subplots(len(taught), columns, squeeze=False), taught, terms, strict=True
    ):
        for axis, (term, shown) in zip(row, own.items(), strict=False):
            draw(axis, run, "levels", shown)
            axis.plot(*detection(run), color="black", linestyle="--", linewidth=1, label="detection")
            finish(axis, f"{run.name}: {term}")
        draw(row[len(own)], run, "ratios", [term for term in TERMS if term in names(run, "ratios")])
        finish(row[len(own)], f"{run.name}: gradient / detection's")
        for axis in row[len(own) + 1 :]:
            axis.remove()
    return figure


def terms_of(run: Run) -> dict[str, list[str]]:
    """The terms of a run's distillation, each with the names of what its levels contribute."""
    found = names(run, "levels")
    parts = {term: [name for name in found if name.startswith(part)] for term, part in TERMS.items()}
    return {term: shown for term, shown in parts.items() if shown}


def detection(run: Run) -> tuple[list[int], list[float]]:
    """The iterations, and the sum of the detection losses at each of them."""
    sums = [
        float(sum(loss for name, loss in line["losses"].items() if name not in TERMS)) for line in run.train
    ]
    return [line["iteration"] for line in run.train], sums


def warnings_of(run: Run) -> list[str]:
    """The warnings of a run, each with its iteration."""
    return [
        f"Iteration {line['iteration']}: {text}"
        for line in run.train
        for text in line.get("warnings", {}).values()
    ]


def names(run: Run, part: str) -> list[str]:
    """Names of all values in a part of a run's training lines, in their order."""
    return list(dict.fromkeys(name for line in run.train for name in line.get(part, {})))


def draw(axis: Axes, run: Run, part: str, shown: Sequence[str]) -> None:
    """A line for each name, from dark (the first, the finest level) to light."""
    for number, name in enumerate(shown):
        points = [(line["iteration"], line[part][name]) for line in run.train if name in line.get(part, {})]
        colour = colormaps["viridis"](0.9 * number / max(len(shown) - 1, 1))
        axis.plot(
            *zip(*points, strict=True),
            color=colour,
            linewidth=1.4,
            label=label(name),
        )


def label(name: str) -> str:
    """The level in the name of what it contributes, the term in that of its ratio."""
    return name.removeprefix("frs_") if name in TERMS else f"level {name.rpartition('_')[2]}"


def finish(axis: Axes, title: str) -> None:
    """Scale, title and legend; an empty panel says so."""
    if not axis.lines:
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes)
    scale(axis)
    panel(axis, title)
    if axis.lines:
        axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
