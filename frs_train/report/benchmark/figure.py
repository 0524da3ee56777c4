"""The picture of a benchmark: AP against latency."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from frs_train.evaluation.pictures import PLAIN
from frs_train.report.benchmark.measure import Benchmark, Row
from frs_train.report.benchmark.tables import label, number, sources_of_ap, where
from frs_train.report.runs import COLOURS

LARGEST = 900  # area of the largest point in square points
MARKERS = {"torch": "o", "onnx": "s"}
GAP = 5  # points between a bar and its label, beyond the radius of the point
ROOM = 0.68  # fraction of the width that the points may use; their labels are on the right


def trade_off(result: Benchmark) -> Figure | None:
    """AP against latency with one point for each row that has an AP; None if none has.

    The area of a point is proportional to the parameters; its bar spans the 10th to the 90th percentile.
    """
    rows = [row for row in result.rows if row.candidate.score and row.candidate.parameters]
    if not rows:
        return None
    figure = Figure((7.5, 4.6), dpi=140, layout="constrained")
    axis = figure.subplots()
    most = max(row.candidate.parameters or 0 for row in rows)
    names = list(dict.fromkeys(row.candidate.name for row in result.rows))
    for row in rows:
        colour = COLOURS[names.index(row.candidate.name) % len(COLOURS)]
        draw(axis, row, colour, LARGEST * (row.candidate.parameters or 0) / most)
    frame(axis, rows)
    batch = f" of a batch of {result.batch_size}" if result.batch_size > 1 else ""
    axis.set_xlabel(f"latency of the detection{batch} in ms, with 10th to 90th percentile")
    axis.set_ylabel("AP in per cent")
    axis.set_title("AP against latency; area of a point: parameters", fontsize=11, loc="left")
    figure.supxlabel("\n".join([where(result), *sources_of_ap(result)]), fontsize=7, color="#5b6573", **PLAIN)
    figure.draw_without_rendering()
    separate([text for text in axis.texts if isinstance(text, Annotation)])
    return figure


def draw(axis: Axes, row: Row, colour: str, area: float) -> None:
    """A point with its bar, and its label on the right."""
    latency, x, y = row.latency, 1e3 * row.latency.median, 100 * row.candidate.score.ap  # pyright: ignore[reportOptionalMemberAccess]  # the row has one
    bar = [[x - 1e3 * latency.p10], [1e3 * latency.p90 - x]]
    marker = MARKERS[row.candidate.runtime]
    axis.scatter(x, y, s=area, color=colour, alpha=0.3, linewidth=0, marker=marker)
    axis.errorbar(x, y, xerr=bar, color=colour, marker=marker, markersize=3, capsize=3, linewidth=1.4)
    text = axis.annotate(
        f"{label(row)}\n{number(row.candidate.parameters, 1e-6, 2)} M, {x:.1f} ms",
        (1e3 * latency.p90, y),
        xytext=(math.sqrt(area / math.pi) + GAP, 0),
        textcoords="offset points",
        verticalalignment="center",
        fontsize=8.5,
        color=colour,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        **PLAIN,
    )
    text.set_in_layout(False)  # so that `separate` does not change the layout that it relies on


def frame(axis: Axes, rows: Sequence[Row]) -> None:
    """The ranges of the axes, with latency from 0 so that lengths compare, and the grid."""
    scores = [100 * row.candidate.score.ap for row in rows if row.candidate.score]
    margin = max(0.2 * (max(scores) - min(scores)), 1.5)
    axis.set_ylim(min(scores) - margin, max(scores) + margin)
    axis.set_xlim(0, max(1e3 * row.latency.p90 for row in rows) / ROOM)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def extent(label: Annotation) -> Bbox:
    """The pixels of a label without its line."""
    return Text.get_window_extent(label)


def separate(labels: Sequence[Annotation]) -> None:
    """Moves labels down until none covers another, the highest first. The figure must have been laid out."""
    placed: list[Bbox] = []
    for box, text in sorted(((extent(text), text) for text in labels), key=lambda pair: -pair[0].y0):
        for above in sorted(placed, key=lambda other: -other.y0):
            if box.overlaps(above):
                down = box.y1 - above.y0 + 1
                box = box.translated(0, -down)
                x, y = text.get_position()
                text.set_position((x, y - down * 72 / text.figure.dpi))
        placed.append(box)
