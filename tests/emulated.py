"""The CUDA kernels on the CPU: compiled by g++ against tests/cpp/cuda_shim, as a backend named "emulated".

As a program it compiles them. CXXFLAGS and LDFLAGS mean what they mean to setup.py.
"""

import ctypes
import fcntl
import functools
import os
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from frs_kernels import library

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "cuda-emulated"
NAMESPACE = "frs_kernels_emulated"
CXX = shlex.split(os.environ.get("CXX", "g++"))
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-Wall", "-Wno-attributes", "-Wno-unknown-pragmas"]
FLAGS += shlex.split(os.environ.get("CXXFLAGS", ""))
FLAGS += [f"-I{ROOT / path}" for path in ("tests/cpp/cuda_shim", "csrc", "csrc/include")]

NAME = "emulated"


def unavailable() -> str | None:
    return None if shutil.which(CXX[0]) and (ROOT / "csrc").exists() else f"needs {CXX[0]} and the sources"


def unsupported(inputs) -> str | None:
    return None if inputs.device.type == "cpu" else "runs on the CPU"


def namespace():
    load()
    return getattr(torch.ops, NAMESPACE)


@functools.cache
def load() -> ctypes.CDLL:
    """Compiles what has changed, and registers the operators."""
    target = build()
    load.library = library.define_with_fakes(NAMESPACE)  # lives as long as its operators
    library.implement(NAMESPACE, target, "CPU")
    return ctypes.CDLL(str(target))


def build() -> Path:
    """Compiles what has changed; the library."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:  # the processes of pytest-xdist share the folder
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build()


def _build() -> Path:
    base = Path(torch.__file__).parent
    stable = ["-isystem", f"{base}/include", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    kernels = sorted((ROOT / "csrc/cuda").glob("*.cu"))
    jobs = [(source, ["-x", "c++"]) for source in kernels]
    jobs += [(source, stable) for source in sorted((ROOT / "csrc/bind").glob("*.cpp"))]
    jobs += [(ROOT / "tests/cpp/cuda_emulator.cpp", []), (ROOT / "tests/cpp/cuda_emulated.cpp", stable)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(lambda job: _compile(*job), jobs))
    target = BUILD / "emulated.so"
    if not target.exists() or target.stat().st_mtime < max(o.stat().st_mtime for o in objects):
        flags = [f"-L{base}/lib", "-ltorch_cpu", *shlex.split(os.environ.get("LDFLAGS", ""))]
        _run([*CXX, "-shared", *map(str, objects), *flags, "-o", str(target)])
    return target


def launches() -> int:
    """The number of kernels and memsets launched so far."""
    return ctypes.c_int.in_dll(load(), "emulated_launches").value


def _compile(source: Path, flags: list[str]) -> Path:
    target = BUILD / f"{source.name}.o"
    inputs = [source, *(ROOT / "csrc").rglob("*.h"), *(ROOT / "csrc").rglob("*.cuh")]
    inputs += [*(ROOT / "tests/cpp").rglob("*.h"), *(ROOT / "csrc/bind/cuda").glob("*.cpp")]
    if not target.exists() or target.stat().st_mtime < max(path.stat().st_mtime for path in inputs):
        _run([*CXX, *FLAGS, *flags, "-c", str(source), "-o", str(target)])
    return target


def _run(command: list[str]):
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-4000:]}"


if __name__ == "__main__":
    build()
