"""What Ctrl-C (SIGINT) and SIGTERM do to a command, from its first moment on: one line, and 128 plus the
signal's number as the status.

Imports nothing heavy, so that it is in force before anything that is.
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
    """Ends the process at once, with nothing tidied up."""
    os.write(2, f"{MESSAGE}\n".encode())
    os._exit(128 + number)


def unwind(number: int, frame: FrameType | None) -> None:
    """Raises `KeyboardInterrupt(number)`, so that what is open is closed. In an import it leaves: C code
    would swallow the exception, or make another of it. A second signal finds the process leaving at once."""
    if _importing(frame):
        leave(number)
    listen(leave)
    raise KeyboardInterrupt(number)


def _importing(frame: FrameType | None) -> bool:
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def listen(handler) -> None:
    """Lets a handler answer the signals, but for those that whoever started the process had it ignore."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """A command that `leave` would end is unwound instead, as long as the block lasts."""
    if leave not in map(signal.getsignal, SIGNALS):  # the process is a test's, say, and so are its signals
        yield
        return
    listen(unwind)
    try:
        yield
    finally:
        listen(leave)
