"""The handling of SIGTERM and SIGINT during training: the run saves a checkpoint before it stops."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from frs_train import distributed
from frs_train.interrupt import SIGNALS


class Signals:
    """Records a signal, so that the run can stop at a safe place.

    A signal ends an `interruptible` block at once, with `KeyboardInterrupt`. Everywhere else the run polls
    `caught`, the number of the first signal, 0 before it. A second signal of the same number is handled as
    before `heard`: it ends the process. (Under torchrun, Ctrl-C arrives as SIGINT and a moment later as
    SIGTERM.)
    """

    def __init__(self) -> None:
        self.caught = 0
        self._open = False
        self._before: dict[int, Any] = {}

    @contextlib.contextmanager
    def heard(self) -> Iterator[Signals]:
        """Handles the signals for the duration of the block."""
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
        """A signal ends this block at once; an earlier signal ends it at its start.

        With several processes the block is not interrupted, because the other processes would wait for the
        one that stops. They poll `caught` together between two steps.
        """
        if distributed.world() > 1:
            yield
            return
        try:
            self._open = True
            self._obey()
            yield
            self._obey()  # Python drops an exception that a handler raises in a destructor or a C callback
        finally:
            self._open = False

    def _obey(self) -> None:
        if self.caught:
            self._open = False  # so that a further signal does not interrupt the handling of this one
            raise KeyboardInterrupt

    def _note(self, number: int, _: object) -> None:
        self.caught = self.caught or number
        signal.signal(number, self._before[number])
        if self._open:
            self._obey()
