"""The command line `frs-train COMMAND`: parses it, runs the command, and turns exceptions into exit codes.

An error that the user can correct prints one paragraph, without a traceback, and exits with code 2.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from frs_train.cli.command import Command
from frs_train.cli.commands import COMMANDS
from frs_train.errors import Stopped, UserError
from frs_train.interrupt import MESSAGE, unwinding
from frs_train.options import Options
from frs_train.recipes import find_recipe

DESCRIPTION = "Train object detectors with or without feature-richness distillation, and evaluate them."


def parse(arguments: Sequence[str]) -> tuple[Command, Options]:
    """The command of a command line and its configuration. `--recipe` changes the defaults of `train` and
    `distill`."""
    recipe = find_recipe(name) if (name := _option(arguments, "--recipe")) else None
    union: Any = None
    for name, command in COMMANDS.items():
        given = {"default": command.default(recipe)} if recipe and command.default else {}
        subcommand = tyro.conf.subcommand(name, description=command.description, **given)
        kind = Annotated[command.configuration, subcommand]
        union = kind if union is None else union | kind
    configuration = tyro.cli(
        tyro.conf.OmitArgPrefixes[union], prog="frs-train", args=list(arguments), description=DESCRIPTION
    )
    return next(c for c in COMMANDS.values() if c.configuration is type(configuration)), configuration


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option, `--name VALUE` or `--name=VALUE`, before the whole line is parsed."""
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
            command, configuration = parse(sys.argv[1:] if arguments is None else arguments)
            with unwinding():
                from frs_train.log import Log  # which imports torch, and --help needs neither

                return command.run(configuration, Log()) or 0
        finally:
            sys.stdout.flush()  # here, so that BrokenPipeError is caught below
    except UserError as error:
        print(f"frs-train: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output, `head` for example, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"frs-train: {error.filename or 'a file'}: {error.strerror or error}.", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"frs-train: {stopped} Continue with --resume.", file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt as interrupted:
        print(MESSAGE, file=sys.stderr)
        return 128 + next(iter(interrupted.args), signal.SIGINT)
