"""The machine: what a reader has to know of it to understand a time that was measured on it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch


def describe(device: torch.device) -> dict[str, Any]:
    """The facts about machine and software that a time depends on; no host name and no path."""
    facts = {
        "device": str(device),
        "processor": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    if device.type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return facts


def processor() -> str:
    """The model, and the CPU family, which identifies the generation where a hypervisor hides the number."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:  # another system than Linux
        return platform.processor() or platform.machine()
    info = dict(re.findall(r"^(.*?)\s*:[ ]?(.*)$", first, re.MULTILINE))
    name = info.get("model name", platform.machine()).strip()
    hidden = "cpu family" in info and not re.search(r"\d", name)
    return f"{name} family {info['cpu family']}" if hidden else name


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
