"""Builds everything the GPU suite needs on another machine and packs it into prebuilt.tar.xz.

    python -m benchmarks.prebuild make 9.0    # compute capability of the GPU; needs nvcc but no GPU

The archive holds the native libraries, the programs that need no torch, and the compiled Triton kernels of
the tests and benchmarks. Copy it into the root of the same sources on the other machine, where
benchmarks/gpu_suite.sh unpacks it. Python, torch and Triton should have the same versions there; what does
not match is compiled again.
"""

import argparse
import io
import lzma
import os
import subprocess
import sys
import tarfile

from benchmarks import gpu_programs, preflight
from benchmarks.sources import ROOT

ARCHIVE = ROOT / "prebuilt.tar.xz"
LABEL = "prebuilt.json"  # a member of the archive: which sources and which GPUs it is for
LIBRARIES = ("frs_kernels/_native_cpu.so", "frs_kernels/_native_cuda.so", "frs_kernels/build_info.json")
TRITON_CACHE = "build/triton"  # relative, because some of Triton's files contain the paths of others
MEMBERS = (*LIBRARIES, *gpu_programs.files("programs"), *gpu_programs.files("variants"), TRITON_CACHE)


def make(capability: str) -> None:
    """Builds the libraries, the programs and the Triton kernels, and packs the archive."""
    if missing := preflight.missing_packages():
        sys.exit(f"prebuild: {missing}")
    environment = {**os.environ, "FRS_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": capability}
    _run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", env=environment)
    gpu_programs.build("programs", capability)
    gpu_programs.build("variants", capability)
    triton_kernels(capability)
    pack(capability)
    print(
        f"{ARCHIVE.name}: {ARCHIVE.stat().st_size / 2**20:.0f} MiB, for the root of these sources elsewhere"
    )


def triton_kernels(capability: str) -> None:
    """Compiles the Triton kernels into TRITON_CACHE, in one process per core."""
    environment = {**os.environ, "TRITON_CACHE_DIR": TRITON_CACHE}
    shards = len(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "benchmarks.triton_stub", capability]
    processes = [
        subprocess.Popen([*command, str(shard), str(shards)], cwd=ROOT, env=environment)
        for shard in range(shards)
    ]
    if any([process.wait() for process in processes]):
        sys.exit("prebuild: Triton kernels were not compiled, see above")


def pack(capability: str) -> None:
    part = ARCHIVE.with_suffix(".part")
    with tarfile.open(part, "w:xz") as archive:
        label = tarfile.TarInfo(LABEL)
        text = gpu_programs.label(capability).encode()
        label.size = len(text)
        archive.addfile(label, io.BytesIO(text))
        for name in MEMBERS:
            archive.add(ROOT / name, name)
    part.replace(ARCHIVE)


def unpack(capability: str) -> None:
    """Unpacks the archive if there is one and it is of these sources and for this GPU."""
    if not ARCHIVE.exists():
        return
    try:
        with tarfile.open(ARCHIVE) as archive:
            label = archive.extractfile(LABEL).read().decode()
            if label != (needed := gpu_programs.label(capability)):
                print(f"{ARCHIVE.name} is not used: it is for {label}, needed is {needed}")
                return
            members = [member for member in archive if member.name != LABEL]  # reads the whole file
            options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python >= 3.11.4
            archive.extractall(ROOT, members, **options)
    except (tarfile.TarError, lzma.LZMAError, KeyError, EOFError) as error:
        sys.exit(f"{ARCHIVE.name} cannot be read: {error}")
    print(f"unpacked {ARCHIVE.name}")


def _run(*command: str, **options) -> None:
    code = subprocess.run(command, cwd=ROOT, **options).returncode
    if code:
        sys.exit(f"prebuild: {os.path.basename(command[0])} ended with status {code}, see above")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("make", "unpack"))
    parser.add_argument(
        "capability", type=gpu_programs.capability_of, help="compute capability of the GPU, such as 9.0"
    )
    arguments = parser.parse_args()
    {"make": make, "unpack": unpack}[arguments.what](arguments.capability)


if __name__ == "__main__":
    main()
