"""Writes docs/results/, and tables in the README and docs/performance.md, from benchmarks/results/*.json.

python -m benchmarks.report                     write the pages, the plots and the tables
python -m benchmarks.report check               fail if a page is not what the JSON and the sources give
python -m benchmarks.report summary FILE        print the tables of a run
"""

import argparse
import sys
from pathlib import Path

from benchmarks import tables
from benchmarks.results import Run
from benchmarks.sources import ROOT
from benchmarks.workloads import EDGE_BINS, EDGES, OPS

TITLES = {
    "time": "Time, side by side",
    "kl": "Time of the softmax losses, side by side",
    "memory": "Memory added at the peak",
    "bandwidth": "Bandwidth reached",
    "scaling": "Scaling with the batch",
}
# The files that have a table between two comments: their name there, and the table of a run.
HEADLINES = {"README.md": ("headline", tables.headline), "docs/performance.md": ("kl", tables.kl_headline)}


def tables_of(run: Run) -> str:
    """All tables of a run, as the sections of its page."""
    sections = []
    if run.races:
        sections += ["## Side by side\n", _RACES]
        sections += filter(None, [tables.races(run)])
        if softmax_losses := tables.kl_races(run):
            sections += [_KL, softmax_losses]
    if run.steps:
        sections += ["## Training step\n", tables.steps(run)]
        if parts := tables.step_parts(run):
            sections.append(parts)
        if distillation := tables.distillation(run):
            sections += [_DISTILLATION, distillation]
    for op in OPS:
        if run.cases(lambda case, op=op: case.op == op):
            sections += [f"## {op}, each provider on its own\n", tables.singles(run, op)]
    if run.singles:
        sections += ["## Bandwidth\n", _bandwidth_line(run), tables.bandwidth(run)]
        details = tables.gpu_details(run)
        sections += ["## Launches and host time\n", details, tables.gpu_kernels(run)] if details else []
        sections += ["## Accuracy\n", _ACCURACY, tables.accuracy(run)]
    return "\n".join(sections)


_RACES = """\
The providers take turns, so that other load on the machine slows all of them alike. Times are medians; in
brackets, the time divided by ours. `malloc`: "default" is glibc as it comes, "warm" keeps freed memory as
caching allocators do. GB/s is the least number of bytes that has to move, divided by our time; "share" is
that divided by the rate of a plain copy, which takes its turn in every round.
"""
_KL = f"""\
Softmax losses: "ld" is localization distillation of box edges ({EDGES} x {EDGE_BINS} bins, weighted by a
mask), "kd" Hinton's distillation of the class logits of each anchor (80 classes; gfl has 1 anchor,
retinanet 9), "cwd" channel-wise distillation of features (a distribution over all locations).
"""
_DISTILLATION = """\
What the distillation adds to a step without a teacher. "teacher" includes the masks, and "loss" the gradients
that it computes. "rest" is what these parts leave: backward and update of the adapters, and sums of
gradients. "teacher alone" is the teacher's forward without masks, in turns with the steps: prepared as in our
step, and as it was built; in brackets, the difference divided by it.
"""
_ACCURACY = "||out - expected|| / ||expected|| against float64, checked before anything is timed.\n"


def _bandwidth_line(run: Run) -> str:
    rates = ", ".join(f"{name} {gbps:.1f}" for name, gbps in run.bandwidth.items())
    return f"Measured in the same run, GB/s: {rates}. Copies count the bytes read plus the bytes written.\n"


def page(run: Run, folder: Path) -> str:
    """The page of a run, with those of its plots that are in the folder."""
    parts = [f"# {run.machine['name']}\n", _banner(run), _machine(run), tables_of(run)]
    for kind, title in TITLES.items():
        file = folder / f"{run.file.stem}-{kind}.png"
        if file.exists():
            parts += [f"## {title}\n", f"![{title}]({file.name})\n", f"*{run.source}*\n"]
    return "\n".join(part for part in parts if part)


def _banner(run: Run) -> str:
    if not run.stale:
        return ""
    changed = ", ".join(
        f"`{name}` (measured {measured}, present {present})"
        for name, (measured, present) in run.stale.items()
    )
    return f"> **Stale.** The kernel sources have changed since the measurement: {changed}.\n"


def _machine(run: Run) -> str:
    info, commit = run.machine, run.content["commit_info"]
    dirty = " with uncommitted changes outside the kernels" if commit.get("dirty") else ""
    lines = [
        f"- [{run.file.name}](../../benchmarks/results/{run.file.name}), size {run.content['size']}, "
        f"{run.content['datetime'][:10]}, commit {(commit.get('id') or 'unknown')[:12]}{dirty}",
        "- " + _listed({key: value for key, value in info.items() if key != "build"}),
        *(["- build: " + _listed(info["build"])] if info["build"] else []),
    ]
    return "\n".join(lines) + "\n"


def _listed(facts: dict) -> str:
    words = {key: ", ".join(map(str, v)) if isinstance(v, list) else v for key, v in facts.items() if v}
    return "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in words.items())


def index(runs: list[Run], others: list[Path]) -> str:
    """The list of pages: those of the runs, and all others (of trainings) with their titles."""
    lines = [
        "# Results\n",
        "Kernels, written by `python -m benchmarks.report` from `benchmarks/results/`:\n",
    ]
    for run in runs:
        state = "**stale**" if run.stale else "current"
        counts = f"{len(run.races)} races, {len(run.singles)} single benchmarks"
        link = f"[{run.machine['name']}]({run.file.stem}.md)"
        lines.append(f"- {link}, {run.content['datetime'][:10]}: {counts}; {state}")
    lines += [] if runs else ["No kernel has been measured."]
    lines += ["\nTrainings:\n"] if others else []
    titles = {file.name: file.read_text().partition("\n")[0].lstrip("# ") for file in others}
    lines += [f"- [{title}]({name})" for name, title in titles.items()]
    return "\n".join(lines) + "\n"


def with_headline(file: str, text: str, runs: list[Run]) -> str:
    """The text of one of HEADLINES with the table between its markers. ValueError if it has no markers."""
    name, table = HEADLINES[file]
    first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{file} has no {first} ... {last}")
    measured = "\n".join(filter(None, map(table, runs))) or "Not measured yet.\n"
    return f"{before}{begin}\n{measured}{end}{after}"


def write(root: Path = ROOT, check: bool = False) -> list[str]:
    """Writes the pages and the plots; returns the texts that were out of date. ``check`` writes nothing.

    ValueError, before anything is written, if the kernels of a run are in no commit: no one could repeat it.
    """
    folder = root / "docs" / "results"
    if not check:
        folder.mkdir(parents=True, exist_ok=True)
    runs = [Run.read(file, root) for file in sorted((root / "benchmarks" / "results").glob("*.json"))]
    for run in runs:
        if run.uncommitted:
            raise ValueError(
                f"{run.file.relative_to(root)} was measured with uncommitted changes of {run.uncommitted}. "
                "Commit the kernels, build and measure them again."
            )
    own = {"README.md", *(f"{run.file.stem}.md" for run in runs)}
    others = [file for file in sorted(folder.glob("*.md")) if file.name not in own]
    texts = {folder / "README.md": index(runs, others)}
    for run in runs:
        if not check:
            _draw(run, folder)
        texts[folder / f"{run.file.stem}.md"] = page(run, folder)
    for name in HEADLINES:
        texts[root / name] = with_headline(name, (root / name).read_text(), runs)
    changed = [file for file, text in texts.items() if not file.exists() or file.read_text() != text]
    for file in changed if not check else []:
        file.write_text(texts[file])
    return [str(file.relative_to(root)) for file in changed]


def _draw(run: Run, folder: Path) -> None:
    from benchmarks.plots import draw  # imports matplotlib, which nothing else here needs

    draw(run, folder, TITLES)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description="Writes pages from results."
    )
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("check", help="fail if a page is out of date")
    commands.add_parser("summary", help="print the tables of a run").add_argument("file", type=Path)
    given = parser.parse_args(arguments)
    if given.command == "summary":
        print(tables_of(Run.read(given.file)))
        return 0
    try:
        changed = write(check=given.command == "check")
    except ValueError as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print("\n".join(changed) or "nothing changed")
    return 1 if changed and given.command == "check" else 0


if __name__ == "__main__":
    sys.exit(main())
