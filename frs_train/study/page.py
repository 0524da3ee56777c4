"""The page of a study: tables and figure in one self-contained HTML file, and the same as study.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from frs_train.files import write_atomically
from frs_train.report.page import document, escape, picture, table
from frs_train.study import tables
from frs_train.study.figure import figure
from frs_train.study.outcome import Outcome
from frs_train.text import markdown

CAPTION = (
    "Left: every run is a dot, the bar is the mean. Right: differences of runs with the same seed; the "
    "diamond is their mean, the bar its 95 % interval by Student's t."
)
METHOD = (
    "Runs of a seed start from the same bits and see the same images in the same order. The differences are "
    "paired by seed. The intervals are those of single comparisons: of twenty, one is expected to miss."
)


def write_page(outcome: Outcome, out: Path) -> None:
    """Writes study.html, study.md and study.png to the folder `out`."""
    drawn = figure(outcome)
    drawn.savefig(out / "study.png", metadata={"Software": None})
    found = list(sections(outcome))
    text = "\n".join(f"### {title}\n\n{markdown(rows)}\n" for title, rows in found)
    write_atomically(out / "study.md", text.encode())
    body = f"<p>{escape(METHOD)}</p>{picture(drawn, CAPTION)}"
    body += "".join(f"<section><h2>{escape(title)}</h2>{html(rows)}</section>" for title, rows in found)
    write_atomically(out / "study.html", document("frs-train study", body).encode())


def sections(outcome: Outcome) -> Iterator[tuple[str, tables.Rows]]:
    """The tables of each data set with their titles."""
    for name, data in outcome.data.items():
        teacher = (data.teacher or {}).get("AP")
        known = "" if teacher is None else f" (teacher {100 * teacher:.1f} mAP)"
        yield f"{name}: what each arm reached{known}", tables.scores(outcome, data)
        yield f"{name}: every run", tables.every_run(outcome, data)
        if rows := tables.tuning(data):
            yield f"{name}: how the weights were chosen", rows


def html(rows: tables.Rows) -> str:
    """The rows as an HTML table."""
    cells = ("".join(f"<td>{escape(value)}</td>" for value in row) for row in rows[1:])
    return table([escape(title) for title in rows[0]], list(cells))
