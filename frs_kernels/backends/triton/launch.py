"""One launch, at the cost of little more than the driver's.

Triton's ``kernel[grid](...)`` classifies every argument and compares every global on every call: with a
level table of a hundred integers that is most of the host time of a loss. Here no argument is specialised
(the tables are encoded, the others are named in ``do_not_specialize``), so what a kernel was compiled to
depends on its constants and on which optional arguments are there, and the second launch may go straight
to the compiled kernel.
"""

import torch
from triton.runtime.jit import JITFunction

_COMPILED: dict[tuple, object] = {}
WARP = 64 if torch.version.hip else 32
THREADS = 128  # of a program, unless its launch says otherwise


def settle_keys(*modules) -> None:
    """Makes the keys of Triton's cache on disk independent of which kernel a process launches first.

    The key of a function has the globals of those that it calls only if theirs were asked for before (Triton
    3.6); so they are asked for here, callees first: modules and functions in the order of their definition.
    """
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, JITFunction):
                _ = value.cache_key


def launch(
    kernel, programs: int, device: torch.device, arguments: tuple, constants: tuple,
    *, threads: int = THREADS, registers: int | None = None,
) -> None:  # fmt: skip
    """Runs ``kernel`` over ``programs`` programs: its arguments, then its constants, both in order.

    Threads of a program, and registers that one may have, follow from kernel and constants: they are no
    part of the key.
    """
    key = (kernel, device, constants, *(argument is None for argument in arguments))
    compiled = _COMPILED.get(key)
    if compiled is None:
        # None in the interpreter, which compiles nothing.
        options = {"maxnreg": registers} if registers else {}
        _COMPILED[key] = kernel[(programs,)](*arguments, *constants, num_warps=threads // WARP, **options)
    else:
        compiled[programs, 1, 1](*arguments, *constants)
