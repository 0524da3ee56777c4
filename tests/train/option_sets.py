"""The options of all commands, found from the types of their configurations."""

import dataclasses
import inspect
from typing import get_args, get_type_hints

from frs_train.cli.commands import COMMANDS
from frs_train.cli.evaluation import EvalData
from frs_train.options import Options

NEEDED = {
    "train": "--out x",
    "distill": "--out x",
    "eval": "RUN --data d",
    "visualize": "RUN --data d --out x",
    "predict": "RUN a.png --out x",
    "report": "RUN",
    "study": "FILE --out x",
    "benchmark": "RUN",
    "export": "RUN --out x",
    "demo": "",
    "make-digits": "x",
}


def sets_of_options() -> list[type[Options]]:
    """The dataclasses of all commands, and the dataclasses of their fields."""
    found, left = [], [command.configuration for command in COMMANDS.values()]
    while left:
        kind = left.pop()
        found.append(kind)
        left += [k for h in get_type_hints(kind).values() if (k := set_inside(h)) and k not in found + left]
    return found


def set_inside(hint):
    return next((k for k in (hint, *get_args(hint)) if inspect.isclass(k) and issubclass(k, Options)), None)


def numbers_in(hint) -> bool:
    return hint in (int, float) or any(numbers_in(part) for part in get_args(hint))


SETS = sets_of_options()
NUMBERS = [
    (kind, name, hint)
    for kind in SETS
    for name, hint in get_type_hints(kind, include_extras=True).items()
    if not set_inside(hint) and numbers_in(hint)
]


def called(kind: type, name: str) -> str:
    return f"{kind.__name__}.{name}"


def minimal(kind: type, **options) -> dict:
    """Values for the required options of a set, and these."""
    required = [
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    data = {"data": "x"} if issubclass(kind, EvalData) else {}
    return {**data, **{name: ("x",) if name in ("runs", "images") else "x" for name in required}, **options}


def shown_by(command: str) -> set[type[Options]]:
    """The sets of options of a command."""
    kind = COMMANDS[command].configuration
    inside = {k for hint in get_type_hints(kind).values() if (k := set_inside(hint))}
    return {kind} | inside
