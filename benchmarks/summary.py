"""Prints one page about a folder of the GPU suite: ``python -m benchmarks.summary FOLDER``.

Reads the files that are there, complete or not; gpu_suite.sh says what they are.
"""

import re
import sys
from collections import Counter
from pathlib import Path

from benchmarks.report import tables_of
from benchmarks.results import Run

# As pytest -v prints them: "tests/a.py::b PASSED [ 5%]", and with xdist "[gw0] [ 5%] PASSED tests/a.py::b".
_OUTCOME = r"(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)"
_PLAIN = re.compile(rf"^(tests/\S+::.*?) {_OUTCOME}\b")
_XDIST = re.compile(rf"^\[gw\d+\] \[ *\d+%\] {_OUTCOME} (tests/.*?)\s*$")
_FAULT = re.compile(r"(ERROR|RACECHECK) SUMMARY|========= (Invalid|Error|Race|Barrier|Target)")
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
    """The last outcome of every test in a log of pytest -v, which may hold several sessions."""
    last = {}
    for line in lines:
        if plain := _PLAIN.match(line):
            last[plain[1]] = plain[2]
        elif xdist := _XDIST.match(line):
            last[xdist[2]] = xdist[1]
    return last


def _tests(folder: Path) -> str:
    lines = _lines(folder / "tests.txt")
    tests = outcomes(lines)
    if not tests:
        return _block(lines[-15:])
    counts = ", ".join(f"{count} {name.lower()}" for name, count in Counter(tests.values()).most_common())
    reasons = {line for line in lines if re.match(r"(FAILED|ERROR) tests/", line)}
    failed = [name for name, outcome in tests.items() if outcome in ("FAILED", "ERROR")]
    shown = [next((line for line in sorted(reasons) if f" {name}" in line), name) for name in failed]
    return counts + "\n" + _block([line[:300] for line in shown])


def _sanitizers(folder: Path) -> str:
    lines = _lines(folder / "sanitize.txt")
    return _block([line for line in lines if line.startswith("== ") or _FAULT.search(line)][:200])


def _counters(folder: Path) -> str:
    return _block([line for line in _lines(folder / "counters.txt") if _COUNTER.search(line)])


def _benchmarks(folder: Path) -> str:
    runs = [Run.read(file) for file in sorted(folder.glob("benchmarks*.json"))]
    return "\n".join(tables_of(run).replace("## ", "### ") for run in runs)


if __name__ == "__main__":
    print(page(Path(sys.argv[1])))
