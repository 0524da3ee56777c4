"""The CPU kernels on aarch64, cross-compiled and run by an emulator, against plain loops in double."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CXX, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
FLAGS = (
    "-O3 -fno-math-errno -std=c++17 -Wall -Wextra -Werror -Icsrc -Icsrc/include -DFRS_ISA=baseline".split()
)


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which(CXX) and shutil.which(EMULATOR) and (ROOT / "csrc").exists()),
    reason=f"needs {CXX} and {EMULATOR} (Debian: g++-aarch64-linux-gnu, qemu-user-static)",
)
def test_aarch64(tmp_path):
    sources = [*ROOT.glob("csrc/cpu/*.cpp"), *ROOT.glob("csrc/cpu/isa/*.cpp")]
    sources.append(ROOT / "tests/cpp/portable.cpp")
    objects = [str(tmp_path / f"{number}.o") for number in range(len(sources))]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        jobs = zip(sources, objects, strict=True)
        list(pool.map(lambda job: run(CXX, *FLAGS, "-c", str(job[0]), "-o", job[1]), jobs))
    run(CXX, "-static", *objects, "-o", str(tmp_path / "portable"))
    assert run(EMULATOR, str(tmp_path / "portable")).count("error") == 8  # four types in two layouts
