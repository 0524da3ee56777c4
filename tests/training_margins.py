"""How far the tests that train are from their bounds, for many seeds and several instruction sets.

    python -m tests.training_margins [--seeds 10] [--setting NAME]... [TESTS OR OTHER OPTIONS OF PYTEST]

Runs every test that takes `training_seed` with that many seeds under each of the SETTINGS, and prints what
its `bounded` values recorded: the smallest factor by which a bound could be narrower. 1 is the bound itself.
A processor that lacks an instruction set uses the best one that it has: the heading of the column names it.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from . import programs

ROOT = Path(__file__).parent.parent
LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
)  # of PyTorch and its libraries
SETTINGS = {
    "default": (("default", "SSE41", "SSE4_2"), ()),
    "avx2": (("avx2", "AVX2", "AVX2"), ()),
    "avx512": (("avx512", "AVX512_CORE", "AVX512"), ()),
    "oneDNN off": ((), ("--without-onednn",)),
}
Margins = dict[str, float]  # by test and bound


def measure(setting: str, seeds: int, options: list[str]) -> tuple[int, Margins]:
    """The exit status of pytest and the smallest margins of all seeds under a setting."""
    limits, more = SETTINGS[setting]
    with tempfile.NamedTemporaryFile(suffix=".xml") as file:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "trains", *more]
        command += [f"--junitxml={file.name}", "-o", "junit_family=xunit1"]
        environment = {**os.environ, **dict(zip(LIMITS, limits, strict=False))}
        done = subprocess.run([*command, f"--training-seeds={seeds}", *options], cwd=ROOT, env=environment)
        return done.returncode, read(ElementTree.parse(file.name))


def read(report: ElementTree.ElementTree) -> Margins:
    """The smallest margins in a JUnit report; a test that failed before any bound has margin 0."""
    smallest: Margins = {}

    def note(name: str, margin: float) -> None:
        smallest[name] = min(margin, smallest.get(name, margin))

    for case in report.iter("testcase"):
        test = f"{case.get('classname').rpartition('.')[2]}::{re.sub(r'seed[0-9]+-?', '', case.get('name'))}"
        test = test.removesuffix("[]").replace("-]", "]")
        for entry in case.iter("property"):
            note(f"{test}: {entry.get('name')}", float(entry.get("value")))
        if case.find("failure") is not None or case.find("error") is not None:
            note(f"{test}: fails", 0.0)
    return smallest


def capability(setting: str) -> str:
    """The instruction set of PyTorch's own kernels under a setting."""
    limits = dict(zip(LIMITS, SETTINGS[setting][0], strict=False))
    return programs.output("cpu_capability.py", **limits).strip()


def table(columns: dict[str, Margins]) -> str:
    rows = sorted({name for margins in columns.values() for name in margins})
    lines = ["| least margin | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name in rows:
        cells = (f"{margins[name]:.3g}x" if name in margins else "-" for margins in columns.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--setting", action="append", choices=SETTINGS, help="all of them if not given")
    arguments, options = parser.parse_known_args()
    columns, codes = {}, []
    for setting in arguments.setting or SETTINGS:
        code, margins = measure(setting, arguments.seeds, options)
        codes.append(code)
        columns[f"{setting} ({capability(setting)})"] = margins
    print(table(columns))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
