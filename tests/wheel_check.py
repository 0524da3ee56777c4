"""``make wheel-check``: does the one wheel serve every Python and every torch?

Makes a new environment for each pair of a Python and a torch, installs the newest wheel of dist/ there, runs
programs/native_against_eager.py (which compares the compiled CPU kernels with eager PyTorch), and removes the
environment. Every pair downloads some gigabytes, unless pip has them in its cache.

    python tests/wheel_check.py [--python PYTHON ...] [--torch VERSION ...]
    python tests/wheel_check.py --content      # prints the table of docs/install.md, and installs nothing
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import programs

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = [f"python3.{minor}" for minor in range(10, 15)]
TORCHES = ["2.10.0", "2.11.0", "newest"]  # the oldest supported, the pinned one, the newest
INSTALL = ["-m", "pip", "install", "-q", "--disable-pip-version-check"]


def check(python: str, torch: str, wheel: Path) -> bool:
    """Whether the wheel works in a new environment, which has no compiler on its PATH."""
    with tempfile.TemporaryDirectory(prefix="wheel-check-") as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        python = f"{folder}/bin/python"
        requirement = "torch" if torch == "newest" else f"torch=={torch}"
        if subprocess.run([python, *INSTALL, requirement, "numpy", str(wheel)]).returncode:
            return False
        environment = {**os.environ, "PATH": f"{folder}/bin"}
        for what in (["-m", "frs_kernels.info"], [str(programs.FOLDER / "native_against_eager.py")]):
            if subprocess.run([python, *what], cwd=folder, env=environment).returncode:
                return False
    return True


def content(wheel: Path) -> str:
    """What the wheel holds, as a table."""
    names = {
        "_native_cpu.so": "CPU kernels",
        "_native_cuda.so": "CUDA kernels",
        "digits_teacher.pt": "the teacher of `frs-train demo`",
    }
    parts = {name: [] for name in [*names.values(), "all else"]}
    with zipfile.ZipFile(wheel) as archive:
        for file in archive.infolist():
            parts[names.get(file.filename.rpartition("/")[2], "all else")].append(file)
    rows = [f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", ""]
    rows += ["| part | unpacked | in the wheel |", "|---|---:|---:|"]
    for name, files in parts.items():
        unpacked, packed = sum(f.file_size for f in files), sum(f.compress_size for f in files)
        rows.append(f"| {name} | {unpacked / 1e6:.1f} MB | {packed / 1e6:.1f} MB |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", nargs="+", default=[p for p in PYTHONS if shutil.which(p)])
    parser.add_argument("--torch", nargs="+", default=TORCHES)
    parser.add_argument("--content", action="store_true", help="print what the wheel holds, and stop")
    options = parser.parse_args()
    pattern = f"frs_kernels-*-manylinux_*_{platform.machine()}.whl"
    wheels = sorted((ROOT / "dist").glob(pattern), key=lambda path: path.stat().st_mtime)
    if not wheels:
        print(f"no {pattern} in dist/: run `make wheel` first", file=sys.stderr)
        return 2
    if options.content:
        print(content(wheels[-1]))
        return 0
    pairs = [(python, torch) for python in options.python for torch in options.torch]
    failed = [pair for pair in pairs if not check(*pair, wheels[-1])]
    for python, torch in pairs:
        print(f"{python}, torch {torch}: {'FAILED' if (python, torch) in failed else 'works'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
