"""Peak memory of one call above what was there before it, and the C allocator's two habits on a CPU."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

import frs_kernels
from frs_kernels.library import load_native

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's mallopt


def peak_added(run: Callable, device: str) -> int | None:
    """Bytes that a call adds at its peak; None where the system does not tell. Call it once before.

    On a GPU the caching allocator's count. On a CPU the kernel's high-water mark of resident memory: it
    sees whatever touches memory, torch's tensors and a native kernel's own buffers alike.
    """
    return _peak_cuda(run) if device == "cuda" else _peak_resident(run)


class Shortage:
    """``with Shortage() as short:`` leaves the block where a GPU's memory is too small: ``short.happened``.

    What the block held is free for others only after it: an exception keeps the frames it came through.
    """

    # How PyTorch, cuDNN and cuBLAS say it. cuDNN finds no engine where none gets its workspace.
    SIGNS = ("out of memory", "ALLOC_FAILED", "unable to find an engine")

    def __init__(self):
        self.happened = False

    def __enter__(self) -> "Shortage":
        return self

    def __exit__(self, kind, error, traceback) -> bool:
        self.happened = isinstance(error, RuntimeError) and any(sign in str(error) for sign in self.SIGNS)
        return self.happened


def release() -> None:
    """Gives the GPU what no tensor uses any more."""
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
    """Gives back what malloc and the native kernels keep, so that the next call shows all it takes."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
    if load_native("cpu") is None:
        library = Path(frs_kernels.__file__).with_name("_native_cpu.so")
        ctypes.CDLL(str(library)).frs_release_gradient_memory()


def keep_freed_memory() -> bool:
    """Makes malloc keep what is freed for the rest of the process; False where it is not glibc's.

    By default glibc returns large blocks to the system, and a fresh gradient costs a page fault for every
    4 KB, every step. With memory kept, as caching allocators and malloc's tunables keep it, it costs none.
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1))


def _glibc():
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
