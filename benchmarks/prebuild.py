"""Builds everything the GPU suite needs on another machine and packs it into prebuilt.tar.xz.

    python -m benchmarks.prebuild make 9.0    # compute capability of the GPU; needs nvcc but no GPU

The archive holds the native libraries, the programs that need no torch, and the compiled Triton kernels of
the tests and benchmarks. Copy it into the root of the same sources on the other machine, where
benchmarks/gpu_suite.sh unpacks it. Python, torch and Triton should have the same versions there; what does
not match is compiled again.
"""

import argparse
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile

from benchmarks import preflight
from benchmarks.sources import ROOT, digest, digest_of

sys.path.insert(0, str(ROOT / "csrc"))
import toolchain  # noqa: E402

ARCHIVE = ROOT / "prebuilt.tar.xz"
LABEL = "prebuilt.json"  # a member of the archive: which sources and which GPUs it is for
LIBRARIES = ("frs_kernels/_native_cpu.so", "frs_kernels/_native_cuda.so", "frs_kernels/build_info.json")
PROGRAMS = {  # with their sources
    "build/gpu_check": ("benchmarks/gpu_check.cu", "csrc/cuda/*.cu"),
    "build/gpu_patterns": ("benchmarks/gpu_patterns.cu",),
}
PROGRAMS_LABEL = "build/gpu_programs.json"
TRITON_CACHE = "build/triton"  # relative, because some of Triton's files contain the paths of others
MEMBERS = (*LIBRARIES, *PROGRAMS, PROGRAMS_LABEL, TRITON_CACHE)


def make(capability: str) -> None:
    """Builds the libraries, the programs and the Triton kernels, and packs the archive."""
    if missing := preflight.missing_packages():
        sys.exit(f"prebuild: {missing}")
    environment = {**os.environ, "FRS_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": capability}
    _run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", env=environment)
    programs(capability)
    triton_kernels(capability)
    pack(capability)
    print(
        f"{ARCHIVE.name}: {ARCHIVE.stat().st_size / 2**20:.0f} MiB, for the root of these sources elsewhere"
    )


def programs(capability: str) -> None:
    """Compiles the programs that need no torch, unless they are there and of these sources."""
    label = ROOT / PROGRAMS_LABEL
    there = all((ROOT / program).exists() for program in PROGRAMS)
    if there and label.exists() and label.read_text() == _label(capability):
        return
    nvcc = toolchain.find_nvcc() or sys.exit(
        "prebuild: nvcc was not found (CUDA_HOME, PATH, /usr/local/cuda)"
    )
    label.parent.mkdir(exist_ok=True)
    flags = ["-O3", "-std=c++17", f"-arch=sm_{capability.replace('.', '')}", "-Icsrc", "-Icsrc/include"]
    for program, patterns in PROGRAMS.items():
        print(f"{program} ...", flush=True)
        files = [str(file.relative_to(ROOT)) for pattern in patterns for file in sorted(ROOT.glob(pattern))]
        _run(nvcc, *flags, *files, "-o", f"{program}.part")
        (ROOT / f"{program}.part").replace(ROOT / program)
    label.write_text(_label(capability))


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
        text = _label(capability).encode()
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
            if label != _label(capability):
                print(f"{ARCHIVE.name} is not used: it is for {label}, needed is {_label(capability)}")
                return
            members = [member for member in archive if member.name != LABEL]  # reads the whole file
            options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python >= 3.11.4
            archive.extractall(ROOT, members, **options)
    except (tarfile.TarError, lzma.LZMAError, KeyError, EOFError) as error:
        sys.exit(f"{ARCHIVE.name} cannot be read: {error}")
    print(f"unpacked {ARCHIVE.name}")


def _label(capability: str) -> str:
    programs = digest_of(ROOT, ("benchmarks/gpu_*.cu*",))
    return json.dumps({"kernels": digest("cuda"), "programs": programs, "capability": capability})


def _run(*command: str, **options) -> None:
    code = subprocess.run(command, cwd=ROOT, **options).returncode
    if code:
        sys.exit(f"prebuild: {os.path.basename(command[0])} ended with status {code}, see above")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("make", "programs", "unpack"))
    parser.add_argument("capability", type=_capability, help="compute capability of the GPU, such as 9.0")
    arguments = parser.parse_args()
    {"make": make, "programs": programs, "unpack": unpack}[arguments.what](arguments.capability)


def _capability(text: str) -> str:
    major, _, minor = text.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a compute capability: MAJOR.MINOR, such as 9.0")
    return text


if __name__ == "__main__":
    main()
