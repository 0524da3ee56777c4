"""The command line: `frs-train COMMAND`. What the user can put right is one paragraph and exit code 2."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from frs_train.cli.commands import COMMANDS, Distill, Train
from frs_train.errors import Stopped, UserError
from frs_train.interrupt import MESSAGE, unwinding
from frs_train.log import Log
from frs_train.recipes import find


def parse(arguments: Sequence[str]) -> Any:
    """The command of a command line. `--recipe` gives `train` and `distill` other defaults."""
    recipe = _option(arguments, "--recipe")
    union: Any = None
    for name, kind in COMMANDS.items():
        given = {"default": _preset(kind, recipe)} if recipe and issubclass(kind, Train) else {}
        option = Annotated[kind, tyro.conf.subcommand(name, **given)]
        union = option if union is None else union | option
    return tyro.cli(
        tyro.conf.OmitArgPrefixes[union], prog="frs-train", args=list(arguments), description=__doc__
    )


def _preset(kind: type[Train], name: str) -> Train:
    recipe = find(name)
    if issubclass(kind, Distill):
        return kind(
            out=tyro.MISSING, detector=recipe.student, train=recipe.train, distill=recipe.distill, recipe=name
        )
    return kind(out=tyro.MISSING, detector=recipe.teacher, train=recipe.train, recipe=name)


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option before the real parsing, `--name VALUE` or `--name=VALUE`."""
    for position, argument in enumerate(arguments):
        if argument == name and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    try:
        try:
            command = parse(sys.argv[1:] if arguments is None else arguments)
            with unwinding():
                command.run(Log())
        finally:
            sys.stdout.flush()  # here, where a reader that has left can be met, and not when Python ends
    except UserError as error:
        print(f"frs-train: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads the output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"frs-train: {error.filename or 'a file'}: {error.strerror or error}.", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"frs-train: {stopped} Go on with --resume.", file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt as interrupted:
        print(MESSAGE, file=sys.stderr)
        return 128 + next(iter(interrupted.args), signal.SIGINT)
    return 0
