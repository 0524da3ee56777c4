"""What Triton needs to compile kernels and to start them, and the reason where that is missing.

Triton itself finds out at the first launch, when "auto" can no longer take another backend. The checks here
look at files alone and follow Triton 3.6 to 3.8 (``triton/runtime/build.py``, ``runtime/cache.py``, and the
drivers and compilers in ``backends/``).

To start a kernel, Triton compiles modules of C for this Python (its interface to the driver; until 3.6 also a
launcher for each signature) and keeps them, and all kernels, in its cache. So a cache that an earlier process
has filled makes up for a missing compiler and for a folder that cannot be written, but not for a missing
ptxas: its version is part of the cache's keys.
"""

import os
import shutil
import sysconfig
from pathlib import Path

from triton import knobs

OLDEST_GPU = (7, 0)  # loads with the L2 hint evict_first, which the kernels have, need it


def cannot_compile() -> str | None:
    """Why Triton can start no kernel on any GPU of this machine, or None."""
    reason = _no_compiler() or _no_cache()
    return None if reason is None or _is_cached() else reason


def no_code_for(capability: tuple[int, int]) -> str | None:
    """Why Triton makes no code for an NVIDIA GPU of this compute capability, or None."""
    if capability < OLDEST_GPU:
        version, oldest = ("{}.{}".format(*pair) for pair in (capability, OLDEST_GPU))
        return f"Triton's code needs compute capability {oldest} or later, and this GPU has {version}"
    from triton.backends.nvidia.compiler import get_ptxas

    try:
        get_ptxas(10 * capability[0] + capability[1])
    except (OSError, RuntimeError) as error:
        return f"Triton compiles with ptxas, which cannot be run ({error}); reinstall Triton"
    return None


def _no_compiler() -> str | None:
    if knobs.build.impl is not None:  # a function of the user's that compiles
        return None
    given = os.environ.get("CC")
    if given is not None and not shutil.which(given):
        return f"Triton compiles its launchers with $CC, and there is no program {given!r}"
    if given is None and not (shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler for its launchers: install gcc or clang, or set CC"
    headers = sysconfig.get_path("include", _scheme())
    if not Path(headers, "Python.h").exists():
        return (
            f"Triton needs Python's headers for its launchers (python3-dev): there is no {headers}/Python.h"
        )
    return None


def _scheme() -> str:
    """The installation scheme that has the headers: Debian's own default scheme has not."""
    scheme = sysconfig.get_default_scheme()
    return "posix_prefix" if scheme == "posix_local" else scheme


def _no_cache() -> str | None:
    if knobs.cache.manager_class is not None:  # a class of the user's that keeps the kernels elsewhere
        return None
    folder = knobs.cache.dir
    paths = (Path(folder), *Path(folder).absolute().parents)
    present = next(path for path in paths if os.path.exists(path))
    if folder and present.is_dir() and os.access(present, os.W_OK | os.X_OK):
        return None
    return f"Triton cannot write to its cache {folder!r}: set TRITON_CACHE_DIR to a folder that it can write"


def _is_cached() -> bool:
    """Whether an earlier process has left these kernels and Triton's interface to the driver in the cache."""
    if knobs.cache.manager_class is not None:
        return False
    folder = Path(knobs.cache.dir)
    return all(any(folder.glob(f"*/{name}")) for name in ("__grp__loss_kernel.json", "*_utils.*"))
