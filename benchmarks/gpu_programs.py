"""The programs of the GPU suite that need no torch, and variants of the CUDA kernels that wait for a race.

    python -m benchmarks.gpu_programs programs 9.0    # build/gpu_check, build/gpu_patterns; needs no GPU
    python -m benchmarks.gpu_programs variants 9.0    # build/variants/NAME: gpu_check with changed kernels

A variant that wins takes the place of the present text, one that loses is deleted here. docs/tuning-cuda.md
names both.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.sources import ROOT, digest, digest_of

sys.path.insert(0, str(ROOT / "csrc"))
import toolchain  # noqa: E402


@dataclass(frozen=True)
class Program:
    """A program, and the files that it is compiled from."""

    name: str
    """Path from the root."""
    sources: tuple[str, ...]
    """Patterns of paths from the root."""
    edits: tuple[tuple[str, str, str], ...] = ()
    """Changes of the sources: file, text that occurs once in it, text in its place."""

    def apply(self, root: Path) -> None:
        """Changes the sources under `root`. Raises ValueError if a text does not occur exactly once."""
        for file, old, new in self.edits:
            text = (root / file).read_text()
            if (count := text.count(old)) != 1:
                raise ValueError(f"{self.name}: {count} times in {file} instead of once: {old!r}")
            (root / file).write_text(text.replace(old, new))


_CHECK = ("benchmarks/gpu_check.cu", "csrc/cuda/*.cu")
_TILES, _LOSS, _MASK = "csrc/include/frs/tiles.h", "csrc/cuda/loss.cu", "csrc/cuda/mask.cu"
_HALF_ROWS = ((_TILES, "for (uint8_t log2 = 5;", "for (uint8_t log2 = 4;"),)
_FOUR_WARPS = (
    (_TILES, "kWarps = 8;", "kWarps = 4;"),
    (_LOSS, "? 2 : 3;", "? 4 : 6;"),
    (_MASK, "kMinMaskBlocks = 4;", "kMinMaskBlocks = 8;"),
)
_TALL = ((_TILES, "kMaxSteps = 32,", "kMaxSteps = 96,"),)
_MORE_BLOCKS = ((_TILES, "kEnoughBlocks = 512;", "kEnoughBlocks = 1536;"),)
_NO_PREFETCH = (("csrc/cuda/ring.cuh", "global.L2::128B [", "global ["),)
_NO_ARITHMETIC = (
    ("csrc/cuda/head.cuh", "const Acc es =", "if (true) return sums.linear += s, t;\nconst Acc es ="),
)

SETS = {
    "programs": (
        Program("build/gpu_check", _CHECK),
        Program("build/gpu_patterns", ("benchmarks/gpu_patterns.cu",)),
    ),
    "variants": (
        # 256 bytes of two rows per step instead of 512 of one, as in the Triton kernels.
        Program("build/variants/half-rows", _CHECK, _HALF_ROWS),
        # Blocks of 128 threads, and as many warps on a multiprocessor.
        Program("build/variants/four-warps", _CHECK, _FOUR_WARPS),
        Program("build/variants/half-rows-four-warps", _CHECK, _HALF_ROWS + _FOUR_WARPS),
        # Tiles of 192 rows: fewer starts of blocks.
        Program("build/variants/half-rows-tall", _CHECK, _HALF_ROWS + _TALL),
        # Lower tiles for a small batch: four times as many blocks as run at once.
        Program("build/variants/more-blocks", _CHECK, _MORE_BLOCKS),
        Program("build/variants/no-prefetch", _CHECK, _NO_PREFETCH),
        # The head term without its arithmetic, so with wrong results: what all the rest takes.
        Program("build/variants/no-arithmetic", _CHECK, _NO_ARITHMETIC),
    ),
}


def files(which: str) -> list[str]:
    """The paths of a set of programs and of its label, from the root."""
    return [*(program.name for program in SETS[which]), _label_file(which)]


def build(which: str, capability: str) -> None:
    """Compiles a set of programs, unless they are there and of these sources."""
    expected = label(capability)
    if all((ROOT / file).exists() for file in files(which)):
        if (ROOT / _label_file(which)).read_text() == expected:
            return
    nvcc = toolchain.find_nvcc() or sys.exit("nvcc was not found (CUDA_HOME, PATH, /usr/local/cuda)")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda program: _compile(nvcc, program, capability), SETS[which]))
    (ROOT / _label_file(which)).write_text(expected)


def label(capability: str) -> str:
    """What the programs depend on."""
    programs = digest_of(ROOT, ("benchmarks/gpu_*.cu*", "benchmarks/gpu_programs.py"))
    return json.dumps({"kernels": digest("cuda"), "programs": programs, "capability": capability})


def _label_file(which: str) -> str:
    return f"build/{which}.json"


def _compile(nvcc: str, program: Program, capability: str) -> None:
    """Compiles a copy of the sources in which the program's edits are made."""
    print(f"{program.name} ...", flush=True)
    target = ROOT / program.name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(ROOT / "csrc", root / "csrc")
        shutil.copytree(ROOT / "benchmarks", root / "benchmarks", ignore=shutil.ignore_patterns("results"))
        program.apply(root)
        sources = [str(file) for pattern in program.sources for file in sorted(root.glob(pattern))]
        flags = ["-O3", "-std=c++17", f"-arch=sm_{capability.replace('.', '')}", "-Icsrc", "-Icsrc/include"]
        code = subprocess.run([nvcc, *flags, *sources, "-o", str(part)], cwd=root).returncode
    if code:
        sys.exit(f"{program.name}: nvcc ended with status {code}, see above")
    part.replace(target)


def capability_of(text: str) -> str:
    """A compute capability as an argument of the command line."""
    major, _, minor = text.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a compute capability: MAJOR.MINOR, such as 9.0")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=SETS)
    parser.add_argument("capability", type=capability_of, help="compute capability of the GPU, such as 9.0")
    arguments = parser.parse_args()
    build(arguments.which, arguments.capability)


if __name__ == "__main__":
    main()
