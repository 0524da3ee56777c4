"""A race: several providers are timed in turns, and one that fails is left out with the reason."""

from collections.abc import Callable

import pytest

from benchmarks import timers
from benchmarks.measure import Call


class Race:
    """Providers that are prepared one after another and then timed in turns.

    Attributes:
        calls, errors, turns: what is timed, relative errors and seconds of the providers that take part.
        missing: for each other provider, the reason.
        once: seconds of one round.
    """

    def __init__(self, device: str, copy: Callable):
        self.calls: dict[str, Call] = {}
        self.errors: dict[str, dict] = {}
        self.missing: dict[str, str] = {}
        self.turns: dict[str, list[float]] = {"copy": []}
        self.once = 0.0
        self._now, self._copy = timers.clock(device), copy

    def admit(self, name: str, prepare: Callable) -> None:
        """Adds a provider or the reason why it is missing. ``prepare()`` gives call, errors and seconds."""
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
        """Times a round of all providers but the first, which it only sets up: pytest-benchmark times it."""
        for name in [name for name in self.calls if name != first]:
            try:
                self.calls[name].prepare()
                self.turns[name].append(timers.timed(self._now, self.calls[name].run))
            except Exception as error:
                self._exclude(name, error)
        self.turns["copy"].append(timers.timed(self._now, self._copy))
        self.calls[first].setup()

    def _exclude(self, name: str, error: Exception) -> None:
        line = str(error).partition("\n")[0][:300]
        self.missing[name] = f"{type(error).__name__}: {line}"
        for of_providers in (self.calls, self.errors, self.turns):
            of_providers.pop(name, None)
