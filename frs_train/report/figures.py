"""The figures of a report: curves of several runs, and their FRS masks on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from frs_train.data.dataset import CocoDetection
from frs_train.data.loader import collate, to_device
from frs_train.errors import UserError
from frs_train.evaluation.pictures import PLAIN, View, look, richest, show_boxes, show_heat
from frs_train.log import Log
from frs_train.text import printable
from frs_train.training import checkpoint
from frs_train.training.datasets import open_eval

if TYPE_CHECKING:
    from frs_train.report.runs import Run

COLUMNS = 3
SPAN = 30  # a loss whose largest value is more than SPAN times its smallest gets a logarithmic axis


def curves(runs: Sequence[Run]) -> Figure:
    """Total loss, each loss by name, AP, and seconds per iteration, one panel each."""
    parts = list(dict.fromkeys(name for run in runs for line in run.train for name in line["losses"]))
    panels = [("loss", "loss"), *((f"loss: {part}", part) for part in parts)]
    count = len(panels) + 2
    rows = -(-count // COLUMNS)
    figure = Figure((12, 2.7 * rows), dpi=100, layout="constrained")
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axis, (title, key) in zip(axes, panels, strict=False):
        for run in runs:
            points = [(t["iteration"], t[key] if key == "loss" else t["losses"].get(key)) for t in run.train]
            line(axis, run, [point for point in points if point[1] is not None])
        scale(axis)
        panel(axis, title)
    for run in runs:
        scores = [(e["iteration"], 100 * e["AP"]) for e in run.evals if e.get("AP") is not None]
        axes[count - 2].plot(*_columns(scores), color=run.colour, marker="o", markersize=4)
        axes[count - 1].plot(
            *_columns([(t["iteration"], t["seconds_per_iteration"]) for t in run.train]), color=run.colour
        )
    panel(axes[count - 2], "AP on validation, per cent")
    panel(axes[count - 1], "seconds per iteration")
    for axis in axes[count:]:
        axis.set_visible(False)
    handles = [axes[0].plot([], [], color=run.colour)[0] for run in runs]
    place = {"loc": "outside upper left", "ncols": min(4, len(runs)), "frameon": False}
    for text, run in zip(figure.legend(handles, ["-"] * len(runs), **place).get_texts(), runs, strict=True):
        text.set(text=printable(run.name), **PLAIN)  # legend() drops names that begin with _
    return figure


def scale(axis: Axes) -> None:
    """Makes the axis logarithmic if the values span `SPAN`, with a linear part around 0 if some are <= 0."""
    values = [float(y) for drawn in axis.lines for y in drawn.get_ydata()]  # pyright: ignore[reportGeneralTypeIssues]  # arrays of numbers
    positive = [value for value in values if value > 0]
    if positive and max(positive) > SPAN * min(positive):
        linear = {} if len(positive) == len(values) else {"linthresh": min(positive)}
        axis.set_yscale("symlog" if linear else "log", **linear)


def line(axis: Axes, run: Run, points: list[tuple[float, float]]) -> None:
    """Draws the values, faint, and over them their moving average over 4 per cent of the points."""
    reach = len(points) // 50
    values = [value for _, value in points]
    near = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    smooth = [(x, sum(window) / len(window)) for (x, _), window in zip(points, near, strict=True)]
    axis.plot(*_columns(points), color=run.colour, alpha=0.3, linewidth=1)
    axis.plot(*_columns(smooth), color=run.colour, linewidth=1.6)


def panel(axis: Axes, title: str) -> None:
    """Title and grid; a linear axis starts at zero."""
    axis.set_title(printable(title), fontsize=10, loc="left", **PLAIN)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    if axis.lines and axis.get_yscale() == "linear" and axis.get_ylim()[0] > 0:
        axis.set_ylim(bottom=0)


def masks(runs: Sequence[Run], images: int) -> tuple[list[Figure], list[str]]:
    """One figure per image with one row per run, and notes about runs that are missing in it."""
    views: dict[int, list[tuple[Run, View]]] = {}
    truth, notes, dataset = {}, [], None
    for run in runs:
        try:
            content = checkpoint.read(run.folder, notes.append)
            model, classes = checkpoint.restore(content, checkpoint.name_of(run.folder, content))
            if dataset is None:
                dataset = _validation(run, classes)
            if classes != dataset.coco.classes:
                raise UserError("its classes are not those of the run whose images are drawn.")
            for index in _spread(len(dataset), images):
                (image,), (target,) = to_device(collate([dataset[index, None]]), torch.device("cpu"))
                truth[index] = target
                views.setdefault(index, []).append((run, look(model, image)))
        except UserError as error:
            notes.append(f"No masks of {run.name}: {error}")
    return [_mask_rows(views[index], truth[index], dataset.coco.classes) for index in views], notes  # pyright: ignore[reportOptionalMemberAccess]  # of a view


def _mask_rows(
    seen: list[tuple[Run, View]], target: dict[str, torch.Tensor], classes: Sequence[str]
) -> Figure:
    """A row for each run: ground truth (in the first), detections, richest level."""
    height, width = seen[0][1].image.shape[:2]
    tall = 2.5 * min(max(height / width, 0.1), 4.0)  # inches; bounded for thin images
    figure = Figure((7.5, len(seen) * (tall + 0.3)), dpi=140, layout="constrained")
    strength = Normalize(0, max(float(richest(view).max()) for _, view in seen) or 1)
    for row, (run, view) in zip(figure.subplots(len(seen), 3, squeeze=False), seen, strict=True):
        keep = view.detections["scores"] >= 0.3
        shown = {key: value[keep] for key, value in view.detections.items()}
        show_boxes(row[0], view.image, target, classes, "ground truth")
        show_boxes(row[1], view.image, shown, classes, f"{run.name}: detections, score ≥ 0.3")
        heat = richest(view)
        show_heat(row[2], view.image, heat, strength, f"{run.name}: highest S, at most {heat.max():.2f}")
        for axis in row:
            axis.set_axis_off()
    return figure


def _validation(run: Run, classes: list[str]) -> CocoDetection:
    data = run.config["data"]
    paths = (data.get("folder"), data["val_annotations"], data["val_images"])
    folder, annotations, images = (Path(path) if path else None for path in paths)
    if folder is None and (annotations is None or images is None):
        raise UserError("it has no validation data.")
    return open_eval(annotations, images, classes, run.name, Log(quiet=True), folder=folder)


def _spread(total: int, wanted: int) -> list[int]:
    """`wanted` indices spread evenly over a data set."""
    wanted = min(total, wanted)
    return [i * total // wanted for i in range(wanted)]


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
