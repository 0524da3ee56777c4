"""What surrounds a loop: signals that ask it to stop, deterministic kernels, and a clock that can be
paused."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from frs_train.interrupt import SIGNALS


class Signals:
    """SIGTERM and SIGINT as a run hears them: noted, and obeyed where the run can stop.

    A block under `interruptible` is left at once, by `KeyboardInterrupt`. Everywhere else the run looks at
    `caught`, the number of the first signal (0 before it). A second one of the same number does what it did
    before: it ends the process. (Ctrl-C under torchrun comes as SIGINT, and as SIGTERM a moment later.)
    """

    def __init__(self) -> None:
        self.caught = 0
        self._open = False
        self._before: dict[int, Any] = {}

    @contextlib.contextmanager
    def heard(self) -> Iterator[Signals]:
        """Listens as long as the block lasts."""
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in self._before:
            signal.signal(number, self._note)
        try:
            yield self
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A signal ends this block at once; one that came before it ends it at its start."""
        try:
            self._open = True
            self._obey()
            yield
            self._obey()  # Python drops what a handler raises inside a destructor or a callback of C code
        finally:
            self._open = False

    def _obey(self) -> None:
        if self.caught:
            self._open = False  # what is done about the signal is not interrupted by it
            raise KeyboardInterrupt

    def _note(self, number: int, _: object) -> None:
        self.caught = self.caught or number
        signal.signal(number, self._before[number])
        if self._open:
            self._obey()
