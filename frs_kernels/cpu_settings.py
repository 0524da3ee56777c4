"""What the CPU kernels adapt to the processor: a row of the table in ``csrc/cpu/settings.cpp``.

The row is chosen when the library is loaded, by vendor, family and cache sizes. No setting changes a result.
A measurement may change them for a while; a training has no reason to.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

from .library import load_native, native_path


@dataclass(frozen=True)
class Setting:
    """A setting of the CPU kernels, as it is in effect."""

    value: int
    least: int
    largest: int
    meaning: str


def processor() -> str:
    """The name of this machine's row: "AMD Zen 5", or "default" for processors that nobody has measured.

    Raises RuntimeError without compiled CPU kernels, as the other functions do.
    """
    return _text("frs_processor")


def instruction_set() -> str:
    """The instruction set that the kernels run: "default", "avx2" or "avx512"."""
    return _text("frs_instruction_set")


def settings() -> dict[str, Setting]:
    """The settings in effect, by name."""
    lines = [line.split("\t") for line in _text("frs_settings").splitlines()]
    return {
        name: Setting(int(value), int(least), int(largest), meaning)
        for name, value, least, largest, meaning in lines
    }


@contextlib.contextmanager
def changed(**values: int) -> Iterator[None]:
    """Other settings within a ``with`` block, for all threads. No kernel may run when it begins or ends.

    Raises ValueError for a name or a value that does not exist.
    """
    before = settings()
    try:
        for name, value in values.items():
            _change(name, value, before)
        yield
    finally:
        for name in values.keys() & before.keys():
            _change(name, before[name].value, before)


def _change(name: str, value: int, known: dict[str, Setting]) -> None:
    if name not in known:
        raise ValueError(f"setting {name!r} is none of {tuple(known)}")
    change = _library().frs_change_setting
    change.argtypes, change.restype = (ctypes.c_char_p, ctypes.c_int64), ctypes.c_bool
    if not change(name.encode(), value):
        least, largest = known[name].least, known[name].largest
        multiple = f", a multiple of {least}" if least > 1 else ""
        raise ValueError(f"setting {name} must be from {least} to {largest}{multiple}, got {value}")


def _text(function: str) -> str:
    call = getattr(_library(), function)
    call.restype = ctypes.c_char_p
    return call().decode()


def _library() -> ctypes.CDLL:
    if (reason := load_native("cpu")) is not None:
        raise RuntimeError(f"there are no CPU kernels: {reason}")
    return ctypes.CDLL(str(native_path("cpu")))
