"""Prints a page with the times of several builds of the kernels: ``python -m benchmarks.variants FOLDER``.

It reads variants-*.txt, outputs of build/gpu_check after lines "=== BUILD BATCH", and triton.json. The stage
"variants" of gpu_suite.sh writes such lines into check.txt.
"""

import json
import re
import sys
from pathlib import Path

from benchmarks.tables import table

CASES = [f"{dtype} {layout}" for dtype in ("bf16", "fp32") for layout in ("nchw", "channels_last")]
# What gpu_check measures, by the words it prints. ("divisor known": only in files of earlier builds.)
PARTS = {
    "whole": "the whole loss with gradients",
    "mask": "its mask kernel",
    "divisor known": "the whole loss where Z is known before S",
}
_BUILD = re.compile(r"=== (\S+) (\d+)$")
_CASE = re.compile(r"(\S+ \S+) B=\d+: right")
_TIME = re.compile(rf"  ({'|'.join(PARTS)}), .*? ([\d.]+) us")
_HEAD = """# Variants of the kernels on one GPU

RetinaNet 800x1344, median us. "-": the run ended before this measurement. Written by
`python -m benchmarks.variants FOLDER > FOLDER/variants.md`.
"""


def runs(text: str) -> list[tuple[str, str, dict[tuple[str, str], str]]]:
    """(build, batch, times) of each run of gpu_check in a file; times: (case, one of PARTS) -> us."""
    builds, case = [], None
    for line in text.splitlines():
        if build := _BUILD.match(line):
            builds.append((*build.groups(), {}))
        elif right := _CASE.match(line):
            case = right[1]
        elif taken := _TIME.match(line):
            builds[-1][2][case, taken[1]] = taken[2]
    return builds


def page(folder: Path) -> str:
    sections = [_HEAD]
    for file in sorted(folder.glob("variants-*.txt")):
        builds = runs(file.read_text())
        parts = [part for part in PARTS if any((case, part) in us for *_, us in builds for case in CASES)]
        rows = [
            [build, batch, *(" / ".join(us.get((case, part), "-") for part in parts) for case in CASES)]
            for build, batch, us in builds
        ]
        sections += [f"## {' / '.join(PARTS[part] for part in parts)}\n"]
        sections += [table(["build", "B", *CASES], rows, file.name)]
    return "\n".join([*sections, "## Triton: the launches of a call\n", _triton(folder / "triton.json")])


def _triton(file: Path) -> str:
    kernels = ("mask_kernel", "factors_kernel", "loss_kernel")
    rows = [
        [row["case"].removeprefix("loss-both-retinanet-800x1344-"), row["name"], f"{row['us']:.1f}",
         *(f"{row['launches'][kernel]:.1f}" for kernel in kernels), str(row["registers"])]
        for row in json.loads(file.read_text())["rows"]
    ]  # fmt: skip
    return table(["case", "variant", "whole", *kernels, "registers of loss_kernel"], rows, file.name)


if __name__ == "__main__":
    print(page(Path(sys.argv[1])), end="")
