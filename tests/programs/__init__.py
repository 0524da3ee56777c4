"""Small programs that tests run in a process of their own, and what starts them.

A program is a file of this folder, not a test: it prints what it sees or fails with a traceback, and the test
that started it judges. It can import what the test can import.
"""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def command(program: str, *arguments: object) -> list[str]:
    """The command line that runs ``program`` (a file name of this folder) with the Python of the caller."""
    return [sys.executable, str(FOLDER / program), *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """The environment of the caller, its import path and these changes."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **changes}


def run(program: str, *arguments: object, cwd: Path | None = None, **changes: str):
    """The CompletedProcess of a program, with its output as text; ``changes`` are environment variables."""
    return subprocess.run(
        command(program, *arguments), cwd=cwd, env=environment(**changes), text=True, capture_output=True,
        timeout=300,
    )  # fmt: skip


def output(program: str, *arguments: object, **options) -> str:
    """What a program prints. Raises AssertionError with what it printed as errors if its status is not 0."""
    done = run(program, *arguments, **options)
    assert done.returncode == 0, f"{program} ended with status {done.returncode}\n{done.stderr[-4000:]}"
    return done.stdout
