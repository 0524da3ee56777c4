"""What a folder of the GPU suite holds, as one page: ``python -m benchmarks.summary FOLDER``.

Reads whatever is there, after any cut: see gpu_suite.sh for the files.
"""

import re
import sys
from collections import Counter
from pathlib import Path

from benchmarks.report import tables_of
from benchmarks.results import Run

# As pytest -v prints them: "tests/a.py::b PASSED [ 5%]", and with xdist "[gw0] [ 5%] PASSED tests/a.py::b".
_OUTCOME = r"(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)"
_ALONE = re.compile(rf"^(tests/\S+::.*?) {_OUTCOME}\b")
_XDIST = re.compile(rf"^\[gw\d+\] \[ *\d+%\] {_OUTCOME} (tests/.*?)\s*$")
_FOUND = re.compile(r"(ERROR|RACECHECK) SUMMARY|========= (Invalid|Error|Race|Barrier|Target)")
_COUNTER = re.compile(
    r"^  \S.*\(\d+, \d+, \d+\)|Duration|Throughput|SM Busy|Issue|Achieved|Memory Config|Registers|Stall"
)


def page(folder: Path) -> str:
    sections = {
        "Stages": _log, "Check of the native kernels": _check, "Tests": _tests, "Sanitizers": _sanitizers,
        "Hardware counters": _counters, "Benchmarks": _benchmarks,
    }  # fmt: skip
    parts = [f"# {folder.name}\n"]
    for title, section in sections.items():
        text = section(folder)
        parts.append(f"## {title}\n\n{text or 'Nothing yet.'}\n")
    return "\n".join(parts)


def _lines(file: Path) -> list[str]:
    return file.read_text(errors="replace").splitlines() if file.exists() else []


def _block(lines: list[str]) -> str:
    return "\n".join(["```", *lines, "```"]) if lines else ""


def _log(folder: Path) -> str:
    return _block([line for line in _lines(folder / "log.txt") if re.match(r"\[\d\d:\d\d:\d\d\] ", line)])


def _check(folder: Path) -> str:
    return _block(_lines(folder / "check.txt"))


def outcomes(lines: list[str]) -> dict[str, str]:
    """The last outcome of every test that a log of pytest -v names."""
    found = {}
    for line in lines:
        if alone := _ALONE.match(line):
            found[alone[1]] = alone[2]
        elif xdist := _XDIST.match(line):
            found[xdist[2]] = xdist[1]
    return found


def _tests(folder: Path) -> str:
    lines = _lines(folder / "tests.txt")
    found = outcomes(lines)
    if not found:
        return _block(lines[-15:])
    counts = ", ".join(f"{count} {name.lower()}" for name, count in Counter(found.values()).most_common())
    reasons = {line for line in lines if re.match(r"(FAILED|ERROR) tests/", line)}
    bad = [name for name, outcome in found.items() if outcome in ("FAILED", "ERROR")]
    shown = [next((line for line in sorted(reasons) if f" {name}" in line), name) for name in bad]
    return counts + "\n" + _block([line[:300] for line in shown])


def _sanitizers(folder: Path) -> str:
    lines = _lines(folder / "sanitize.txt")
    return _block([line for line in lines if line.startswith("== ") or _FOUND.search(line)][:200])


def _counters(folder: Path) -> str:
    return _block([line for line in _lines(folder / "counters.txt") if _COUNTER.search(line)])


def _benchmarks(folder: Path) -> str:
    runs = [Run.read(file) for file in sorted(folder.glob("benchmarks*.json"))]
    return "\n".join(tables_of(run).replace("## ", "### ") for run in runs)


if __name__ == "__main__":
    print(page(Path(sys.argv[1])))
