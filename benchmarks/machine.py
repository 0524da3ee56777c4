"""Describes the machine, the software and the build that results were measured with.

``python -m benchmarks.machine`` prints the name of this machine's results, without ".json".
"""

import json
import os
import platform
import re
from pathlib import Path

import torch

from benchmarks.sources import ROOT
from frs_train.machine import cores, processor


def describe(device: str) -> dict:
    """The facts about machine and software that a result needs; no host name and no path."""
    info = {
        "device": device,
        "name": _cuda_name() if device == "cuda" else processor() + _limit(),
        "cpu": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "instruction_sets": _instruction_sets(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "huge_pages": _setting("/sys/kernel/mm/transparent_hugepage/enabled"),
        "preloaded": Path(os.environ.get("LD_PRELOAD", "")).name,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "build": _build(),
    }
    return info | (_cuda() if device == "cuda" else {})


def slug(device: str) -> str:
    """The name of this machine's results: the device, its model and, of a CPU, the number of cores."""
    info = describe(device)
    cores = "" if device == "cuda" else f" {info['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", f"{device} {info['name']}{cores}".lower()).strip("-")


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _cuda_name() -> str:
    return torch.cuda.get_device_name(0)


def _cuda() -> dict:
    import triton

    properties = torch.cuda.get_device_properties(0)
    return {
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_mb": properties.L2_cache_size >> 20,
        "gpu_memory_gb": round(properties.total_memory / 2**30),
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
    }


def _limit() -> str:
    """A suffix where ATEN_CPU_CAPABILITY limits the instruction set of torch and of our kernels."""
    limit = os.environ.get("ATEN_CPU_CAPABILITY")
    return f" limited to {limit}" if limit else ""


def _instruction_sets() -> list[str]:
    known = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve")
    words = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    return [name for name in known if name in words]


def _setting(file: str) -> str:
    """The value in brackets of a Linux kernel setting such as "always [madvise] never"."""
    try:
        return Path(file).read_text().split("[")[1].split("]")[0]
    except (OSError, IndexError):
        return "unknown"


def _build() -> dict:
    file = ROOT / "frs_kernels" / "build_info.json"
    return json.loads(file.read_text()) if file.exists() else {}


if __name__ == "__main__":
    print(slug(default_device()))
