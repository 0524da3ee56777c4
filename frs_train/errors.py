"""Errors that the user can correct: one paragraph that names the file or record and says what to do."""

from __future__ import annotations


class UserError(Exception):
    """Shown as one paragraph without a traceback; the process then exits with code 2."""


class Diverged(UserError):
    """The loss of a run is no longer finite."""


class Stopped(Exception):
    """A signal has stopped the run, which has saved itself; `code` is the exit status."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[Stopped], tuple[str, int]]:
        """Lets the exception reach another process."""
        return Stopped, (str(self), self.code)

    @classmethod
    def by(cls, signal: int, where: str) -> Stopped:
        """The exception for a signal number, with the point at which the run was stopped."""
        return cls(f"Stopped by signal {signal} {where}.", 128 + signal)
