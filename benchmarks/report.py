"""From benchmarks/results/*.json to docs/results/ and the README's headline table.

python -m benchmarks.report                     write the pages, the plots and the README's table
python -m benchmarks.report check               fail if a page is not what the JSON and the sources give now
python -m benchmarks.report summary FILE        print a run's tables
"""

import argparse
import sys
from pathlib import Path

from benchmarks import tables
from benchmarks.results import Run
from benchmarks.sources import ROOT
from benchmarks.workloads import OPS

TITLES = {
    "time": "Time, side by side",
    "memory": "Memory added at the peak",
    "bandwidth": "Bandwidth reached",
    "scaling": "Scaling with the batch",
}
BEGIN, END = "<!-- headline:begin -->", "<!-- headline:end -->"


def tables_of(run: Run) -> str:
    """All tables of a run, as the sections of its page."""
    sections = []
    if run.races:
        sections += ["## Side by side\n", _SIDE_BY_SIDE, tables.races(run)]
    if run.steps:
        parts = tables.step_parts(run)
        sections += ["## Training step\n", tables.steps(run), *([parts] if parts else [])]
    for op in OPS:
        if run.cases(lambda case, op=op: case.op == op):
            sections += [f"## {op}, each provider by itself\n", tables.singles(run, op)]
    if run.singles:
        sections += ["## Bandwidth\n", _bandwidth_line(run), tables.bandwidth(run)]
        details = tables.gpu_details(run)
        sections += ["## Launches and host time\n", details, tables.gpu_kernels(run)] if details else []
        sections += ["## Accuracy\n", _ACCURACY, tables.accuracy(run)]
    return "\n".join(sections)


_SIDE_BY_SIDE = """\
The providers take turns, so that whatever else the machine does meets all alike. Medians; in brackets, how
many times slower than ours. `malloc`: "default" is what a process has, "warm" keeps freed memory, as caching
allocators do. GB/s counts what has to move at least; "share" is that over a copy's GB/s, whose turn came in
every round too.
"""
_ACCURACY = "||out - truth|| / ||truth|| against float64, checked before anything is timed.\n"


def _bandwidth_line(run: Run) -> str:
    rates = ", ".join(f"{name} {gbps:.1f}" for name, gbps in run.bandwidth.items())
    return f"Measured in the same run, GB/s: {rates}. A copy counts what it reads and what it writes.\n"


def page(run: Run, folder: Path) -> str:
    """The page of a run, with the plots that lie in the folder."""
    parts = [f"# {run.machine['name']}\n", _banner(run), _machine(run), tables_of(run)]
    for kind, title in TITLES.items():
        file = folder / f"{run.file.stem}-{kind}.png"
        if file.exists():
            parts += [f"## {title}\n", f"![{title}]({file.name})\n", f"*{run.source}*\n"]
    return "\n".join(part for part in parts if part)


def _banner(run: Run) -> str:
    if not run.stale:
        return ""
    changed = ", ".join(f"`{name}` (measured {then}, now {now})" for name, (then, now) in run.stale.items())
    return f"> **Stale.** The kernel sources have changed since these numbers were measured: {changed}.\n"


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
    """The list of pages: of the runs, and the other pages (trainings) by their titles."""
    lines = [
        "# Results\n",
        "Kernels, from `benchmarks/results/` by `python -m benchmarks.report`:\n",
    ]
    for run in runs:
        state = "**stale**" if run.stale else "current"
        counts = f"{len(run.races)} comparisons, {len(run.singles)} single benchmarks"
        link = f"[{run.machine['name']}]({run.file.stem}.md)"
        lines.append(f"- {link}, {run.content['datetime'][:10]}: {counts}; {state}")
    lines += [] if runs else ["No kernel is measured yet."]
    lines += ["\nTrainings:\n"] if others else []
    titles = {file.name: file.read_text().partition("\n")[0].lstrip("# ") for file in others}
    lines += [f"- [{title}]({name})" for name, title in titles.items()]
    return "\n".join(lines) + "\n"


def with_headline(readme: str, runs: list[Run]) -> str:
    """The README with the text between its markers replaced. ValueError if it has none."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no {BEGIN} ... {END}")
    text = "\n".join(filter(None, map(tables.headline, runs))) or "Not measured yet.\n"
    return f"{before}{BEGIN}\n{text}{END}{after}"


def write(root: Path = ROOT, check: bool = False) -> list[str]:
    """Writes the pages, and the plots unless ``check``; returns the texts that were not up to date.

    ValueError, before anything is written, if nobody could measure a run again: no commit holds its kernels.
    """
    folder = root / "docs" / "results"
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
    readme = root / "README.md"
    texts[readme] = with_headline(readme.read_text(), runs)
    changed = [file for file, text in texts.items() if not file.exists() or file.read_text() != text]
    for file in changed if not check else []:
        file.write_text(texts[file])
    return [str(file.relative_to(root)) for file in changed]


def _draw(run: Run, folder: Path) -> None:
    from benchmarks.plots import draw  # matplotlib: only here is it needed

    draw(run, folder, TITLES)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Pages from results.")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("check", help="fail if a page is out of date")
    commands.add_parser("summary", help="print a run's tables").add_argument("file", type=Path)
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
