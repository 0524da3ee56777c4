"""Builds in faked environments, for the tests of setup.py and of csrc/*.py."""

import shutil
import sys
from pathlib import Path

import programs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "csrc"))
import architectures  # noqa: E402
import machine  # noqa: E402
import toolchain  # noqa: E402

sys.path.remove(str(ROOT / "csrc"))
__all__ = ["architectures", "failed_build", "fake_nvcc", "machine", "sources", "stub_compiler", "toolchain"]

# Environments in which setup.py sees a stub of torch, built with CUDA or without.
TORCH_FOR_CUDA = {"PYTHONPATH": str(programs.FOLDER / "torch_stub"), "TORCH_STUB_CUDA": "13.0"}
TORCH_FOR_CPU = {"PYTHONPATH": str(programs.FOLDER / "torch_stub")}

TURING_TO_HOPPER = "7.5 8.0 8.6 8.7 8.9 9.0"
TO_BLACKWELL = TURING_TO_HOPPER + " 10.0 10.3 11.0 12.0 12.1"


def failed_build(missing="nothing", *arguments, **environment):
    """What ``setup.py build_ext`` prints when it fails, in an interpreter in which something is missing."""
    done = programs.run("build_without.py", missing, *arguments, **environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def fake_nvcc(folder, release="13.0", archs=TO_BLACKWELL):
    """The CUDA_HOME of a toolkit whose nvcc is of this release and lists these architectures, no more."""
    listing = "\n".join(f"compute_{arch.replace('.', '')}" for arch in archs.split())
    nvcc = Path(folder, "cuda", "bin", "nvcc")
    nvcc.parent.mkdir(parents=True, exist_ok=True)
    nvcc.write_text(
        f"#!/bin/sh\ncase $1 in\n--version) echo 'Cuda compilation tools, release {release}, V1';;\n"
        f"--list-gpu-arch) echo '{listing}';;\nesac\n"
    )
    nvcc.chmod(0o755)
    return str(nvcc.parents[1])


def sources(folder):
    """A copy of the tree without what builds and runs have made, like a fresh clone."""
    made = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "*.egg-info", "*.so", "*.pyc", "build_info.json", "runs"
    )
    return shutil.copytree(ROOT, folder / "clone", ignore=made)


def stub_compiler(architecture):
    """The CXX that makes empty files, as if for this architecture."""
    return f"{sys.executable} {programs.FOLDER / 'stub_compiler.py'} {architecture}"
