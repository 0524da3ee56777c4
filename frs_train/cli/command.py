"""What a subcommand consists of: description, options and function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

from frs_train.options import Options
from frs_train.recipes import Recipe

if TYPE_CHECKING:
    from frs_train.log import Log

Positional = tyro.conf.Positional


@dataclass(frozen=True)
class Command:
    """A subcommand."""

    description: str
    """The text in `--help`."""
    configuration: type[Options]
    """The type of its options; each command has its own, by which the parser identifies the command."""
    run: Callable[[Any, Log], int | None]
    """Runs the command, given an instance of `configuration`; returns the exit status (None is 0). It imports
    torch and the rest of the package itself, so that `--help` is fast."""
    default: Callable[[Recipe], Options] | None = None
    """The default options under a recipe."""
