"""A benchmark as a table for the terminal, as Markdown and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Column, Table

from frs_train.report.benchmark.measure import Benchmark, Row
from frs_train.report.benchmark.models import is_onnx
from frs_train.text import markdown, printable

UNKNOWN = "-"


def columns(result: Benchmark) -> list[str]:
    """The titles of the columns, in the order of `cells`."""
    batch = f", batch of {result.batch_size}" if result.batch_size > 1 else ""
    return ["model", "size", "params, M", "smaller", "MB", "GFLOPs", f"ms{batch}", "p10-p90", "faster", "AP"]


def cells(row: Row) -> list[str]:
    """A row as texts. AP is in per cent."""
    one, latency = row.candidate, row.latency
    return [
        label(row),
        str(one.size),
        number(one.parameters, 1e-6, 2),
        f"{number(row.smaller, 1, 1)}x" if row.smaller else UNKNOWN,
        number(one.weight_bytes, 1e-6, 1),
        number(one.flops, 1e-9, 2),
        f"{1e3 * latency.median:.1f}",
        f"{1e3 * latency.p10:.1f}-{1e3 * latency.p90:.1f}",
        f"{row.faster:.1f}x",
        number(one.score and one.score.ap, 100, 1),
    ]


def number(value: float | None, factor: float, digits: int) -> str:
    """A value times a factor as text."""
    return UNKNOWN if value is None else f"{value * factor:.{digits}f}"


def label(row: Row) -> str:
    """The name of a row's model, with the runtime unless it is PyTorch or the name says it."""
    one = row.candidate
    suffix = "" if one.runtime == "torch" or is_onnx(one.name) else f" ({one.runtime})"
    return printable(one.name) + suffix


def as_table(result: Benchmark) -> Table:
    """The table for the terminal."""
    first, *others = columns(result)
    table = Table(
        Column(first, overflow="fold"),
        *(Column(title, justify="right", no_wrap=True) for title in others),
        padding=(0, 0),
    )
    for row in result.rows:
        table.add_row(*cells(row))
    return table


def notes(result: Benchmark) -> list[str]:
    """What the figures of a table mean, one sentence a line."""
    return [
        where(result),
        "ms: median of the whole detection, from images in memory to boxes: scaling, network, decoding, NMS.",
        "GFLOPs of one image: a multiplication and an addition are two operations.",
        "smaller, faster: compared with the first line of the same size, by parameters and by ms.",
        *sources_of_ap(result),
    ]


def where(result: Benchmark) -> str:
    """The machine in one sentence."""
    m = result.machine
    chip = m.get("gpu") or f"{m['processor']} ({m['cores']} cores)"
    threads = f"{m['threads']} thread{'s' * (m['threads'] != 1)}"
    versions = ", ".join(f"{name} {m[name]}" for name in ("torch", "onnxruntime") if name in m)
    return f"Measured on {chip}, {threads}, {versions}, device {m['device']}."


def sources_of_ap(result: Benchmark) -> list[str]:
    """For each validation set, which models have an AP on it, one sentence a line."""
    names: dict[str, dict[str, None]] = {}
    for row in result.rows:
        if row.candidate.score:
            names.setdefault(row.candidate.score.validation, {})[printable(row.candidate.name)] = None
    return [
        f"AP of {', '.join(of)}: at the end of the training, on {short(file)}." for file, of in names.items()
    ]


def short(file: str) -> str:
    """The last two parts of a path, printable."""
    return printable("/".join(Path(file).parts[-2:]))


def as_markdown(result: Benchmark) -> str:
    """The table and its notes."""
    head = columns(result)
    text = markdown([head, *map(cells, result.rows)], ["---", *["---:"] * (len(head) - 1)])
    return f"{text}\n\n" + "\n".join(f"- {note}" for note in notes(result)) + "\n"


def as_json(result: Benchmark) -> dict[str, Any]:
    """All figures in JSON types. Times are in milliseconds, `ap` is a fraction, None where it is unknown."""
    return {
        "machine": result.machine,
        "batch_size": result.batch_size,
        "seconds": result.seconds,
        "rows": [_record(row, result.batch_size) for row in result.rows],
    }


def _record(row: Row, batch_size: int) -> dict[str, Any]:
    one, latency = row.candidate, row.latency
    return {
        "model": one.name,
        "runtime": one.runtime,
        "size": one.size,
        "parameters": one.parameters,
        "weight_bytes": one.weight_bytes,
        "flops": one.flops,
        "latency_ms": {"median": 1e3 * latency.median, "p10": 1e3 * latency.p10, "p90": 1e3 * latency.p90},
        "calls": latency.calls,
        "images_per_second": batch_size / latency.median,
        "smaller": row.smaller,
        "faster": row.faster,
        "ap": one.score and one.score.ap,
        "validation": one.score and one.score.validation,
    }
