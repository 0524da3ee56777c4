"""Tests and benchmarks: where code of torch.compile is cached.

The key of Inductor's cache lacks the instruction set (torch 2.11). With one directory for all, a process that
ATEN_CPU_CAPABILITY limits would load loops of another vector length, and they overwrite memory.
"""

import os
import tempfile

import torch


def pytest_configure():
    name = f"torchinductor_{os.getuid()}_{torch.backends.cpu.get_cpu_capability()}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), name))
