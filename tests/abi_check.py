"""``make abi-check``: does one build of the native library serve several releases of torch?

Installs the wheel from dist/ together with each release in a virtual environment under build/abi/, and
compares the compiled CPU kernels with eager PyTorch there. The first run downloads some gigabytes.

    python tests/abi_check.py [TORCH_VERSION ...]
"""

import subprocess
import sys
import venv
from pathlib import Path

import programs

ROOT = Path(__file__).resolve().parent.parent
RELEASES = ["2.10.0", "2.11.0", "2.13.0", "newest"]  # the oldest supported, the pinned one, later ones


def check(release: str, wheel: Path) -> bool:
    """Installs torch ``release`` and the wheel, and returns whether native_against_eager.py passes there."""
    folder = ROOT / "build" / "abi" / release
    python = str(folder / "bin" / "python")
    if not Path(python).exists():
        venv.create(folder, with_pip=True)
    torch = "torch" if release == "newest" else f"torch=={release}"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, torch, "numpy", "setuptools"], check=True)
    subprocess.run([*install, "--force-reinstall", "--no-deps", str(wheel)], check=True)
    program = str(programs.FOLDER / "native_against_eager.py")
    return subprocess.run([python, program], cwd=folder).returncode == 0


def main(releases: list[str]) -> int:
    wheels = sorted((ROOT / "dist").glob("frs_kernels-*-linux_*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        print("no native wheel in dist/: run `make wheel` first", file=sys.stderr)
        return 2
    failed = [release for release in releases if not check(release, wheels[-1])]
    print(f"{wheels[-1].name}: " + (f"fails with torch {', '.join(failed)}" if failed else "serves them all"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or RELEASES))
