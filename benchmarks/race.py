"""Providers taking turns: who takes part, whose turn it is, and who is missing and why."""

from collections.abc import Callable

import pytest

from benchmarks import timers
from benchmarks.measure import Call


class Race:
    """Providers made ready one by one, then timed in turns, as far as they get."""

    def __init__(self, device: str, copy: Callable):
        self.calls: dict[str, Call] = {}
        self.errors: dict[str, dict] = {}
        self.missing: dict[str, str] = {}
        self.turns: dict[str, list[float]] = {"copy": []}
        self.once = 0.0  # seconds of a round
        self._now, self._copy = timers.clock(device), copy

    def admit(self, name: str, prepare: Callable) -> None:
        """Takes a provider in, or says why not. ``prepare()`` gives call, errors and seconds of a run."""
        try:
            self.calls[name], self.errors[name], seconds = prepare()
        except pytest.skip.Exception as reason:
            self.missing[name] = str(reason)
        except Exception as error:
            self._exclude(name, error)
        else:
            self.once += seconds
            self.turns[name] = []

    def others_turns(self, first: str) -> None:
        """A round of all but the first, which is set up at the end."""
        for name in [name for name in self.calls if name != first]:
            try:
                self.calls[name].prepare()
                self.turns[name].append(timers.timed(self._now, self.calls[name].run))
            except Exception as error:
                self._exclude(name, error)
        self.turns["copy"].append(timers.timed(self._now, self._copy))
        self.calls[first].setup()

    def _exclude(self, name: str, error: Exception) -> None:
        words = str(error).partition("\n")[0][:300]
        self.missing[name] = f"{type(error).__name__}: {words}"
        for kept in (self.calls, self.errors, self.turns):
            kept.pop(name, None)
