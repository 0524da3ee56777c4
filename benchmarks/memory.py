"""The memory that one call adds at its peak, and control of glibc's malloc on a CPU."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

import frs_kernels
from frs_kernels.library import load_native

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's mallopt


def peak_added(run: Callable, device: str) -> int | None:
    """Bytes that a call adds at its peak; None where the system does not report it. Warm the call up first.

    On a GPU this is the caching allocator's count. On a CPU it is Linux's high-water mark of resident memory,
    which includes torch's tensors and the buffers of native kernels.
    """
    return _peak_cuda(run) if device == "cuda" else _peak_resident(run)


class Shortage:
    """A context manager that leaves its block when a GPU's memory is too small, and sets ``happened``.

    The tensors of the block can be freed after it, but not in an ``except`` clause: there the exception holds
    the frames that it was raised through.
    """

    # Messages of PyTorch and cuBLAS, and of cuDNN, which finds no engine if none gets its workspace.
    MESSAGES = ("out of memory", "ALLOC_FAILED", "unable to find an engine")

    def __init__(self):
        self.happened = False

    def __enter__(self) -> "Shortage":
        return self

    def __exit__(self, kind, error, traceback) -> bool:
        self.happened = isinstance(error, RuntimeError) and any(text in str(error) for text in self.MESSAGES)
        return self.happened


def release() -> None:
    """Returns the GPU memory that no tensor uses to the driver."""
    gc.collect()
    torch.cuda.empty_cache()


def _peak_cuda(run: Callable) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _peak_resident(run: Callable) -> int | None:
    gc.collect()
    _release_kept_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
    except OSError:
        return None
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def _release_kept_memory() -> None:
    """Frees what malloc and the native kernels keep between calls, so that it counts as the next call's."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
    if load_native("cpu") is None:
        library = Path(frs_kernels.__file__).with_name("_native_cpu.so")
        ctypes.CDLL(str(library)).frs_release_gradient_memory()


def keep_freed_memory() -> bool:
    """Makes malloc keep freed memory for the rest of the process. Returns False where malloc is not glibc's.

    By default glibc returns large blocks to the system, and a new gradient costs one page fault per 4 KB in
    every step. A malloc that keeps them, as caching allocators and glibc's tunables do, avoids the faults.
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1))


def _glibc():
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
