"""The HTML page of `frs-train report RUN...`, which compares runs in one self-contained file.

It is made from the files of each run folder: `config.json`, `metrics.jsonl`, `result.json`, and the newest
checkpoint for the pictures of masks. A run that is in progress or was stopped can be shown too.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape as escape_html
from pathlib import Path
from typing import Any

from frs_train.files import write_atomically
from frs_train.report.figures import curves, masks
from frs_train.report.levels import level_curves, warnings_of
from frs_train.report.runs import Run, read_runs
from frs_train.text import printable

SCORES = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR")
STYLE = """
:root { color-scheme: light; --line: #d9dde3; --dim: #5b6573; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; }
body { margin: 2rem auto; max-width: 1240px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p, figcaption, summary { color: var(--dim); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }
th, td { padding: .35rem .55rem; border-bottom: 1px solid var(--line); }
th, td { text-align: right; white-space: nowrap; }
th { font-weight: 600; border-bottom: 2px solid var(--line); }
th:first-child, td:first-child, td.text, .results th:nth-child(-n+3) { text-align: left; }
.results td:nth-child(-n+3) { white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
.results th { white-space: normal; vertical-align: bottom; }
td.best { font-weight: 700; background: #eef6ee; }
i.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em; }
figure { margin: 0 0 1rem; }
img { max-width: 100%; height: auto; }
pre { background: #f5f6f8; padding: .8rem; overflow-x: auto; font-size: .8rem; }
"""


def write_report(runs: Sequence[Path | str], out: Path | str, *, images: int = 2) -> Path:
    """Writes one HTML file that compares runs.

    Args:
        runs: run folders.
        images: number of validation images to draw the masks of, with the newest checkpoint of each run.

    Returns:
        `out`.

    Raises:
        UserError: a folder is not a run folder, or a file of it is damaged.
    """
    loaded = read_runs([Path(folder) for folder in runs])
    sections = [
        ("Results", results_table(loaded)),
        (
            "Curves",
            picture(curves(loaded), "Loss of each part, mean AP and time of a step, against iterations."),
        ),
        ("Weights of the distillation", level_section(loaded)),
        ("AP by class", class_table(loaded)),
        ("Where the runs differ", differences(loaded)),
        ("Masks", mask_section(loaded, images)),
        ("Configurations", "".join(map(full_config, loaded))),
    ]
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections if content)
    names = ", ".join(escape(run.name) for run in loaded)
    intro = f"<p>{len(loaded)} run{'s' if len(loaded) > 1 else ''}: {names}</p>"
    write_atomically(
        Path(out), document("frs-train report", intro + body, title=f"frs-train: {names}").encode()
    )
    return Path(out)


def document(heading: str, body: str, title: str = "") -> str:
    """A self-contained HTML page; all three arguments are HTML."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title or heading}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>{heading}</h1>{body}</body></html>\n"
    )


def results_table(runs: Sequence[Run]) -> str:
    """The table of scores (per cent), size, time and memory; each column marks the best of several runs."""
    columns = [
        *((name, [scaled(run.result.get(name), 100) for run in runs], 1, max) for name in SCORES),
        ("params, M", [scaled(run.result.get("parameters"), 1e-6) for run in runs], 2, None),
        ("iterations", [newest(run, "iteration") for run in runs], 0, None),
        ("s / it", [newest(run, "seconds_per_iteration") for run in runs], 3, min),
        ("peak MB", [newest(run, "memory_mb") for run in runs], 0, min),
    ]
    rows = []
    for number, run in enumerate(runs):
        cells = [label(run), escape(detector(run)), escape(method(run))]
        marks = ["", " class=text", " class=text"]
        for _, values, digits, best in columns:
            known = [value for value in values if value is not None]
            winner = best is not None and len(known) > 1 and values[number] == best(known)
            cells.append(number_text(values[number], digits))
            marks.append(" class=best" if winner else "")
        rows.append("".join(f"<td{mark}>{cell}</td>" for mark, cell in zip(marks, cells, strict=True)))
    titles = ["run", "detector", "learns by", *(column[0] for column in columns)]
    return f'<div class="results">{table(titles, rows)}</div>'


def escape(text: str) -> str:
    """Text escaped for HTML, with control characters made visible."""
    return escape_html(printable(text))


def table(head: Sequence[str], rows: Sequence[str]) -> str:
    """An HTML table from column titles and the cells of each row as HTML."""
    titles = "".join(f"<th>{title}</th>" for title in head)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{titles}</tr>{body}</table></div>'


def class_table(runs: Sequence[Run]) -> str:
    """The table of the AP of each class in per cent; empty if no run was evaluated."""
    classes = list(dict.fromkeys(name for run in runs for name in run.result.get("classes", {})))
    if not classes:
        return ""
    rows = []
    for run in runs:
        scores = (scaled(run.result.get("classes", {}).get(name), 100) for name in classes)
        rows.append(
            f"<td>{label(run)}</td>" + "".join(f"<td>{number_text(score, 1)}</td>" for score in scores)
        )
    return table(["run", *map(escape, classes)], rows)


def differences(runs: Sequence[Run]) -> str:
    """The table of the options that differ between the runs; empty for a single run."""
    flat = [flatten(run.config) for run in runs]
    names = [n for n in dict.fromkeys(n for f in flat for n in f) if len({str(f.get(n)) for f in flat}) > 1]
    names = [name for name in names if name not in ("out", "resume")]
    if len(runs) < 2 or not names:
        return ""
    rows = [
        f"<td>{escape(name)}</td>" + "".join(f"<td>{escape(str(f.get(name, '–')))}</td>" for f in flat)
        for name in names
    ]
    return table(["option", *map(label, runs)], rows)


def mask_section(runs: Sequence[Run], images: int) -> str:
    """Masks of the same validation images for every run, and a note for each run that cannot show them."""
    drawn, notes = masks(runs, images) if images else ([], [])
    caption = (
        "Ground truth, then for each run its detections and the highest feature richness S of any level."
    )
    return "".join(picture(figure, caption) for figure in drawn) + "".join(
        f"<p>{escape(note)}</p>" for note in notes
    )


def level_section(runs: Sequence[Run]) -> str:
    """Warnings about the weights, and what each level contributes; empty if no run has a teacher."""
    figure = level_curves(runs)
    if figure is None:
        return ""
    caption = (
        "What each level contributes to the distillation losses (level 0 is the finest), beside the sum of "
        "the detection losses; and the norm of the gradient of the distillation losses in the student's "
        "features, relative to that of the detection losses."
    )
    notes = (f"<p>{label(run)}: {escape(text)}</p>" for run in runs for text in warnings_of(run))
    return "".join(notes) + picture(figure, caption)


def full_config(run: Run) -> str:
    """The whole configuration of a run, collapsed."""
    text = escape_html(json.dumps(run.config, indent=2))
    return f"<details><summary>{label(run)}</summary><pre>{text}</pre></details>"


def picture(figure: Any, caption: str) -> str:
    """A matplotlib figure as an HTML figure with an embedded PNG image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def label(run: Run) -> str:
    """The name of a run after a swatch of its colour."""
    unfinished = "" if run.finished else " (unfinished)"
    return f'<i class="swatch" style="background:{run.colour}"></i>{escape(run.name)}{unfinished}'


def detector(run: Run) -> str:
    """Family, backbone and widths of the detector as HTML text."""
    d = run.config["detector"]
    return f"{d['family']} {d['backbone']} ×{d['backbone_width']:g}, FPN {d['fpn_width']}"


def method(run: Run) -> str:
    """What the run learns from: the data alone, or which teacher and by which method."""
    distill = run.config.get("distill") or {}
    if not distill.get("teacher"):
        return "data alone"
    name = Path(distill["teacher"]).name
    if distill["method"] != "none":
        return f"{distill['method']} from {name}"
    return f"data alone (head from {name} if it fits)" if distill.get("inherit_head", True) else "data alone"


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as one dictionary with dotted names."""
    flat = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def newest(run: Run, key: str) -> float | None:
    """A value of `result.json`, or else of the last training line of `metrics.jsonl`."""
    return run.result.get(key, run.train[-1].get(key) if run.train else None)


def scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def number_text(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
