"""Plots of a run: times of the races, memory, bandwidth reached, scaling with the batch. One PNG each."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from benchmarks.providers import FUSED  # noqa: E402
from benchmarks.results import Race, Run, providers_in  # noqa: E402
from benchmarks.workloads import KL_OPS  # noqa: E402

_COLOURS = dict(
    zip(
        ("official", "best-eager", "compile-official", "compile-best", "compile-official-max",
         "compile-best-max", "triton", "native"),
        ("#8c8c8c", "#bdbdbd", "#9e7bb5", "#c6b1d4", "#6f4e87", "#b08cc9", "#e08a3c", "#c0392b"),
        strict=True,
    )
)  # fmt: skip


def draw(run: Run, folder: Path, titles: dict[str, str]) -> None:
    """Writes RUN-KIND.png for each kind in ``titles`` that the run has measurements of."""
    for kind, title in titles.items():
        figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
        file = folder / f"{run.file.stem}-{kind}.png"
        file.unlink(missing_ok=True)
        if _KINDS[kind](run, axes):
            figure.suptitle(title, fontsize=11)
            figure.supxlabel(textwrap.fill(run.source, 150), fontsize=6, color="#666666")
            figure.savefig(file, dpi=110, metadata={"Software": None})
        plt.close(figure)


def _bars(axes, groups: list[str], series: dict[str, list[float | None]], unit: str) -> bool:
    width = 0.8 / max(1, len(series))
    for index, (name, values) in enumerate(series.items()):
        places = [place + index * width for place, value in enumerate(values) if value is not None]
        bars = axes.bar(places, [v for v in values if v is not None], width, label=name, color=_COLOURS[name])
        axes.bar_label(bars, fmt="%.3g", fontsize=5)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(groups))], groups, fontsize=7)
    axes.set_ylabel(unit)
    if series:
        axes.legend(fontsize=7)
    return bool(series)


def _time(run: Run, axes) -> bool:
    races = _races_of(run, lambda race: race.case.op not in KL_OPS)
    return _race_bars(axes, races, [_label(run, race) for race in races], "ms")


def _kl(run: Run, axes) -> bool:
    races = _races_of(run, lambda race: race.case.op in KL_OPS and race.allocator == "default")
    axes.set_yscale("log")
    return _race_bars(axes, races, [f"{_kind(race)}\n{_tensors(race)}" for race in races], "ms (log)")


def _races_of(run: Run, wanted: Callable[[Race], bool]) -> list[Race]:
    return [race for race in run.races if race.case.mode == "both" and wanted(race)]


def _race_bars(axes, races: list[Race], labels: list[str], unit: str) -> bool:
    names = providers_in(race.turns for race in races)
    series = {
        name: [race.seconds(name) * 1e3 if name in race.turns else None for race in races] for name in names
    }
    return _bars(axes, labels, series, unit)


def _kind(race: Race) -> str:
    return f"{race.case.op}\n{race.case.workload.partition('-')[0]}"


def _tensors(race: Race) -> str:
    return f"{race.case.dtype} {race.case.layout}"


def _label(run: Run, race: Race) -> str:
    on_gpu = run.machine["device"] == "cuda"  # where malloc plays no part, and batches differ
    return f"{_tensors(race)}\n{f'B={race.case.batch}' if on_gpu else race.allocator}"


def _memory(run: Run, axes) -> bool:
    raced = {race.case for race in _races_of(run, lambda race: race.case.op not in KL_OPS)}
    cases = run.cases(lambda case: case in raced)
    names = providers_in(cases.values())
    series = {name: [_peak(records.get(name)) for records in cases.values()] for name in names}
    for place, case in enumerate(cases):
        axes.hlines(case.result_bytes / 1e6, place - 0.1, place + 0.8, colors="black", linewidth=1)
    return _bars(axes, [f"{case.dtype} {case.layout}" for case in cases], series, "MB (line: the gradients)")


def _peak(record) -> float | None:
    peak = record.extra["peak_bytes"] if record else None
    return None if peak is None else peak / 1e6


def _bandwidth(run: Run, axes) -> bool:
    for name in FUSED:
        records = [r for r in run.singles if r.provider == name and "gbps" in r.extra and r.case.shapes.cold]
        if records:
            moved, reached = zip(*((r.case.bytes_moved / 1e6, r.extra["gbps"]) for r in records), strict=True)
            axes.scatter(moved, reached, label=name, color=_COLOURS[name], s=18)
    for name in ("copy", "memcpy") if "memcpy" in run.bandwidth else ("copy",):
        gbps = run.bandwidth[name]
        axes.axhline(gbps, linewidth=0.8, color="#666666")
        axes.annotate(name, (1.0, gbps), xycoords=("axes fraction", "data"), fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("MB moved per call (log)")
    axes.set_ylabel("GB/s")
    if axes.collections:
        axes.legend(fontsize=7)
    return bool(axes.collections)


def _scaling(run: Run, axes) -> bool:
    wanted = ("retinanet-800x1344", "both", "loss", "nchw")
    cases = run.cases(lambda c: (c.workload, c.mode, c.op, c.layout) == wanted)
    dtypes = [case.dtype for case in cases]
    dtype = max(dtypes, key=dtypes.count, default=None)
    batches = sorted({case.batch for case in cases if case.dtype == dtype})
    by_batch = {case.batch: records for case, records in cases.items() if case.dtype == dtype}
    for name in providers_in(by_batch.values()):
        points = [(b, by_batch[b][name].seconds / b * 1e3) for b in batches if name in by_batch[b]]
        if len(points) > 1:
            axes.plot(*zip(*points, strict=True), marker="o", label=name, color=_COLOURS[name])
    axes.set_xlabel(f"images in the batch ({dtype}, NCHW)")
    axes.set_ylabel("ms per image (log)")
    axes.set_yscale("log")
    if axes.lines:
        axes.legend(fontsize=7)
    return bool(axes.lines)


_KINDS = {"time": _time, "kl": _kl, "memory": _memory, "bandwidth": _bandwidth, "scaling": _scaling}
