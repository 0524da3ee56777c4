"""The handlers of SIGINT (Ctrl-C) and SIGTERM: a command ends with one line and exit status 128 + signal.

This module imports nothing heavy, so that the handlers are installed before the heavy imports.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MESSAGE = "frs-train: interrupted."


def leave(number: int, _: FrameType | None = None) -> None:
    """Ends the process at once, without cleanup."""
    os.write(2, f"{MESSAGE}\n".encode())
    os._exit(128 + number)


def unwind(number: int, frame: FrameType | None) -> None:
    """Raises `KeyboardInterrupt(number)`, so that open resources are closed. During an import the process
    ends at once, because C code could swallow or replace the exception. A second signal also does so."""
    if _importing(frame):
        leave(number)
    listen(leave)
    raise KeyboardInterrupt(number)


def _importing(frame: FrameType | None) -> bool:
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def listen(handler) -> None:
    """Installs a handler for the signals, except those that the parent process has set to be ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """In this block, signals raise an exception (`unwind`) instead of ending the process (`leave`)."""
    if leave not in map(signal.getsignal, SIGNALS):  # the caller, a test for example, handles signals itself
        yield
        return
    listen(unwind)
    try:
        yield
    finally:
        listen(leave)
