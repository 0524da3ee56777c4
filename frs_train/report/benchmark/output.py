"""A benchmark on the terminal and in files."""

from __future__ import annotations

import io
import json
from pathlib import Path

from frs_train.files import write_atomically
from frs_train.log import Log
from frs_train.report.benchmark.figure import trade_off
from frs_train.report.benchmark.measure import Benchmark
from frs_train.report.benchmark.tables import as_json, as_markdown, as_table, notes


def show(result: Benchmark, log: Log) -> None:
    """Prints the table and its notes."""
    log.console.print(as_table(result))
    for note in notes(result):
        log.say(note)


def write(result: Benchmark, out: Path) -> list[str]:
    """Writes benchmark.json, benchmark.md and, if a run has an AP, benchmark.png; returns their names.

    Raises `UserError` if a file cannot be written.
    """
    contents = {
        "benchmark.json": json.dumps(as_json(result), indent=2).encode(),
        "benchmark.md": as_markdown(result).encode(),
    }
    figure = trade_off(result)
    if figure is not None:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        contents["benchmark.png"] = buffer.getvalue()
    for name, content in contents.items():
        write_atomically(out / name, content)
    return list(contents)
