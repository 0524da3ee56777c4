"""Options with ranges: base class, types, and conversion to and from JSON.

The range of an option is part of its type, which `whole`, `real` or `several` makes. Creating an instance
checks the range, `--help` shows it, and the error message names it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from frs_train.errors import UserError
from frs_train.text import shortened

OptionSet = TypeVar("OptionSet", bound="Options")


class Range(str):
    """The allowed values of an option, in words."""


def whole(low: int, high: int) -> Any:
    """The type of an integer option from `low` to `high`, both included."""
    return _within(Annotated[int, Field(ge=low, le=high)], f"{low} to {high}")


def real(low: float, high: float, *, above: bool = False, below: bool = False) -> Any:
    """The type of a float option from `low` to `high`; `above` excludes `low`, `below` excludes `high`."""
    bounds = {"gt" if above else "ge": low, "lt" if below else "le": high}
    text = f"{'above ' * above}{low:g} to {'below ' * below}{high:g}"
    return _within(Annotated[float, Field(**bounds, allow_inf_nan=False)], text)


def several(kind: Any, least: int) -> Any:
    """The type of an option with `least` or more values, each of a type made by `whole` or `real`."""
    text = f"{least} or more numbers, each {_range(kind)}"
    return _within(Annotated[tuple[kind, ...], Field(min_length=least)], text)


def _within(kind: Any, text: str) -> Any:
    hint = tyro.conf.arg(help_behavior_hint=lambda default: f"({text}; default: {default})")
    return Annotated[kind, Range(text), hint]


def _range(kind: Any) -> Range | None:
    return next((m for m in _metadata(kind) if isinstance(m, Range)), None)


def _metadata(kind: Any) -> tuple[Any, ...]:
    return get_args(kind)[1:] if get_origin(kind) is Annotated else ()


class Options:
    """Base class of the dataclasses of options.

    Converts each value to the type of its field where nothing is lost (a list to a tuple, a string to a
    path).

    Raises:
        UserError: a value is out of its range, or contradicts another option.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        for name, kind in _hints(type(self)).items():
            value = getattr(self, name)
            if value is tyro.MISSING:  # the command line sets it later
                continue
            try:
                object.__setattr__(self, name, _adapter(kind).validate_python(value))
            except ValidationError as error:
                raise _refusal(type(self), error, (name,)) from None
        self.check()

    def check(self) -> None:
        """Raises `UserError` if options contradict each other."""


def to_dict(options: Options) -> dict[str, Any]:
    """A set of options as JSON types only (a path becomes a string, a tuple a list)."""
    return _adapter(type(options)).dump_python(options, mode="json")


def from_dict(kind: type[OptionSet], values: dict[str, Any]) -> OptionSet:
    """The inverse of `to_dict`. A missing option takes its default.

    Raises:
        UserError: an option does not exist, has no default and is missing, or is out of its range.
    """
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        raise _refusal(kind, error) from None


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@functools.cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def _refusal(kind: type, error: ValidationError, inside: tuple[str, ...] = ()) -> UserError:
    """The first error as one paragraph: option as on the command line, value, allowed values."""
    # An unknown option first: a misspelt one is also missing.
    wrong = min(error.errors(include_url=False), key=lambda e: e["type"] != "unexpected_keyword_argument")
    path = (*inside, *wrong["loc"])
    hint, name = _find(kind, path)
    if wrong["type"] == "unexpected_keyword_argument":
        return UserError(f"There is no option {shortened(repr(wrong['loc'][-1]))} in this version.")
    if wrong["type"] == "missing":
        return UserError(f"{name} is missing.")
    allowed = _range(hint)
    if wrong["type"] == "literal_error":
        reason = f"It must be {wrong['ctx']['expected']}"
    else:
        reason = f"Its range is {allowed}" if allowed else wrong["msg"]
    return UserError(f"{name} is {shortened(repr(wrong['input']))}. {reason}.")


def _find(kind: type, path: tuple[str | int, ...]) -> tuple[Any, str]:
    """The type of the option at a path of field names, and its name on the command line."""
    hint: Any = kind
    name = "The configuration"
    for part in path:
        inner = next((k for k in (hint, *get_args(hint)) if dataclasses.is_dataclass(k)), None)
        if inner is None or not isinstance(part, str):
            break
        hint = _hints(inner).get(part)
        given = (getattr(m, "name", None) for m in _metadata(hint))  # by tyro.conf.arg
        name = f"--{next((n for n in given if isinstance(n, str)), part).replace('_', '-')}"
    return hint, name
