"""``python -m frs_kernels.info``: what can run here. Paste its output into a bug report.

It prints versions, devices, how the native libraries were built, and for each backend whether it runs or why
not. It loads as little as possible, so that it works on a broken installation too.
"""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

from . import __version__, cpu_settings
from .backends import devices as kernel_devices
from .dispatch import BACKENDS
from .library import build_info, load_native


def versions() -> dict[str, str]:
    """Versions of the packages involved, by name."""
    return {
        "frs_kernels": f"{__version__} ({Path(__file__).parent})",
        "python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'no'}, ROCm {torch.version.hip or 'no'})",
        "triton": _version("triton"),
    }


def devices() -> dict[str, str]:
    """The devices that the kernels could run on, by torch device."""
    # sched_getaffinity exists on Linux alone. It counts the cores that this process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = {"cpu": f"{cores} cores, {torch.get_num_threads()} threads, {cpu_kernels()}"}
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = device.total_memory / 2**30
        names[f"cuda:{index}"] = f"{device.name}, sm_{device.major}{device.minor}, {memory:.0f} GiB"
    return names


def cpu_kernels() -> str:
    """The instruction set that the CPU kernels run here, and the row of their settings."""
    if load_native("cpu") is not None:
        return "no CPU kernels"
    return f"{cpu_settings.instruction_set()}, settings of {cpu_settings.processor()}"


def backends() -> dict[str, str]:
    """For every backend "runs", or on which of the devices it runs, and why not on the others."""
    return {name: _where_it_runs(backend) for name, backend in BACKENDS.items()}


def _where_it_runs(backend) -> str:
    if (reason := backend.unavailable()) is not None:
        return reason
    by_reason: dict[str | None, list[str]] = {}
    for device in kernel_devices():
        by_reason.setdefault(backend.unavailable_on(device), []).append(str(device))
    fit = by_reason.pop(None)
    if not by_reason:
        return "runs"
    others = [f"not on {', '.join(devices)}: {reason}" for reason, devices in by_reason.items()]
    return "; ".join([f"runs on {', '.join(fit)}", *others])


def report() -> str:
    """All of it as text, one fact per line."""
    build = {key: _text(value) for key, value in build_info().items() if value}
    sections = {
        "versions": versions(),
        "devices": devices(),
        "build": build
        or {"none": "a pure Python installation (FRS_BUILD=none), or used from the source tree"},
        "backends": backends(),
    }
    if load_native("cpu") is None:
        settings = cpu_settings.settings()
        sections["CPU settings"] = {name: f"{s.value}  {s.meaning}" for name, s in settings.items()}
    lines = []
    for title, facts in sections.items():
        width = max(17, *(len(name) + 2 for name in facts))
        lines += [title, *(f"  {name:<{width}}{fact}" for name, fact in facts.items())]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _text(value) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    print(report())
