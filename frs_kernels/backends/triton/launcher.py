"""Launches a kernel at little more than the driver's own cost.

Triton's ``kernel[grid](...)`` classifies every argument and compares every global on each call. With a level
table of a hundred integers this is most of the host time of a loss. None of our arguments is specialised
(tables are encoded, the others are listed in ``do_not_specialize``), so the compiled kernel depends only on
the constants and on which optional arguments are None. From its second launch on, a kernel is started through
the compiled object directly.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

_COMPILED: dict[tuple, Any] = {}  # of classes private to Triton
WARP = 64 if torch.version.hip else 32
THREADS = 128  # per program, where a launch does not say otherwise


def precompute_cache_keys(*modules) -> None:
    """Makes the keys of Triton's disk cache independent of the kernel that a process launches first.

    In Triton 3.6 the key of a function covers the globals of its callees only if the keys of these have been
    computed before. So they are computed here, callees first: modules and functions in the order of their
    definition.
    """
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, JITFunction):
                _ = value.cache_key


def launch(
    kernel, programs: int, device: torch.device, arguments: tuple, constants: tuple,
    *, threads: int = THREADS, max_registers: int | None = None,
) -> None:  # fmt: skip
    """Launches ``programs`` programs of ``kernel`` with its run-time arguments, followed by its constants.

    ``threads`` per program and ``max_registers`` per thread are a function of kernel and constants, so they
    are not part of the key.
    """
    key = (kernel, device, constants, *(argument is None for argument in arguments))
    compiled = _COMPILED.get(key)
    if compiled is None:
        # The interpreter compiles nothing: it returns None, and every launch comes here.
        options = {"maxnreg": max_registers} if max_registers else {}
        _COMPILED[key] = kernel[(programs,)](*arguments, *constants, num_warps=threads // WARP, **options)
    else:
        compiled[programs, 1, 1](*arguments, *constants)


@contextlib.contextmanager
def current_device(tensor: Tensor):
    """Makes the tensor's device the current one, on which Triton launches."""
    if tensor.device.type in ("cpu", "meta"):  # in the interpreter; to compile without a GPU
        yield
    else:
        with torch.get_device_module(tensor.device).device(tensor.device):
            yield
