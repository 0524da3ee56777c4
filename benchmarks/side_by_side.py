"""Compares the CPU kernels of this tree and of another one on this machine.

python -m benchmarks.side_by_side OTHER_TREE

Both trees have to be built in place (`python setup.py build_ext --inplace`), and their operators have to be
registered in the same way and take the same arguments. A round runs one process per tree. The table shows the
median over the rounds of this tree's time divided by the other's. What is timed is the operator of the whole
loss, without the Python around it, on RetinaNet's shapes.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.cpu_calls import operator_call
from benchmarks.sources import ROOT
from benchmarks.timers import clock, timed
from benchmarks.workloads import LAYOUTS, Case

CALLS, ROUNDS = 25, 7
KINDS = tuple(itertools.product(("fp32", "bf16"), LAYOUTS))


def library_of(tree: Path) -> Path:
    return tree / "frs_kernels" / "_native_cpu.so"


def medians(workload: str) -> list[list[float]]:
    """Seconds of the loaded operator with and without gradients, each a list over KINDS."""
    seconds = [[], []]
    for dtype, layout in KINDS:
        for mode, row in zip(("both", "forward"), seconds, strict=True):
            call = operator_call(Case("loss", mode, workload, 1, dtype, layout))
            row.append(statistics.median(timed(clock("cpu"), call) for _ in range(CALLS)))
    return seconds


def measured(tree: Path, isa: str) -> list[list[float]]:
    """:func:`medians` of a tree, in a separate process, with ATEN_CPU_CAPABILITY set."""
    command = [sys.executable, "-m", "benchmarks.side_by_side", "--measure", str(tree)]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": isa}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tree", type=Path, help="the other tree, built in place")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    other = options.tree.resolve()
    for tree in (other, ROOT):
        if not library_of(tree).exists():
            parser.error(f"{tree} is not built: run `python setup.py build_ext --inplace` there")
    if options.measure:
        from frs_kernels import library

        library.implement(library.NATIVE, library_of(other), "CPU")
        print(json.dumps(medians("retinanet-800x1344")))
        return
    from frs_kernels import _host

    print("| new time / old time |", " | ".join(f"{dtype} {layout}" for dtype, layout in KINDS), "|")
    print("|---" * (len(KINDS) + 1) + "|")
    baseline, *better = _host.instruction_sets()
    for isa in better or [baseline]:
        rounds = [[measured(tree, isa) for tree in (other, ROOT)] for _ in range(ROUNDS)]
        for row, what in enumerate(("with gradients", "without")):
            ratios = (
                statistics.median(new[row][kind] / old[row][kind] for old, new in rounds)
                for kind in range(len(KINDS))
            )
            print(f"| {isa}, {what} |", " | ".join(f"{ratio:.2f}" for ratio in ratios), "|", flush=True)


if __name__ == "__main__":
    main()
