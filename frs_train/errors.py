"""Errors that the user can correct: one paragraph that names the file or record and says what to do."""

from __future__ import annotations


class UserError(Exception):
    """Shown as one paragraph without a traceback; the process then exits with code 2."""


class Stopped(Exception):
    """A signal has stopped the run, which has saved itself; `code` is the exit status."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code

    @classmethod
    def by(cls, signal: int, where: str) -> Stopped:
        """The exception for a signal number, with the point at which the run was stopped."""
        return cls(f"Stopped by signal {signal} {where}.", 128 + signal)
