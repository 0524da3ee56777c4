"""The JSON files of a run (config.json, metrics.jsonl, result.json): their types, and functions to read them.

Reading a file raises only `UserError`, whatever it contains.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, FiniteFloat, NonNegativeInt, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

from frs_train.errors import UserError

OPEN = ConfigDict(extra="allow")  # other versions may write more fields


class TrainLine(TypedDict):
    """A training line of metrics.jsonl. Its losses are those of one step, `iteration`."""

    __pydantic_config__ = OPEN  # pyright: ignore[reportGeneralTypeIssues]  # for pydantic
    kind: Literal["train"]
    iteration: NonNegativeInt
    lr: FiniteFloat
    loss: FiniteFloat
    losses: dict[str, FiniteFloat]
    levels: NotRequired[dict[str, FiniteFloat]]
    ratios: NotRequired[dict[str, FiniteFloat]]
    warnings: NotRequired[dict[str, str]]
    seconds_per_iteration: FiniteFloat
    memory_mb: FiniteFloat | None


class Scores(TypedDict):
    """The scores of an evaluation as fractions; None where there was nothing to measure."""

    __pydantic_config__ = OPEN  # pyright: ignore[reportGeneralTypeIssues]  # for pydantic
    AP: FiniteFloat | None
    AP50: FiniteFloat | None
    AP75: FiniteFloat | None
    AP_S: FiniteFloat | None
    AP_M: FiniteFloat | None
    AP_L: FiniteFloat | None
    AR: FiniteFloat | None
    classes: dict[str, FiniteFloat | None]


class EvalLine(Scores):
    """An evaluation line of metrics.jsonl."""

    kind: Literal["eval"]
    iteration: NonNegativeInt


class Result(Scores):
    """result.json: the last evaluation of a finished run, and its cost."""

    iterations: NonNegativeInt
    parameters: NonNegativeInt
    seconds_per_iteration: NotRequired[FiniteFloat | None]
    memory_mb: NotRequired[FiniteFloat | None]


class DetectorWords(TypedDict):
    """The part of a detector's configuration that a report shows."""

    __pydantic_config__ = OPEN  # pyright: ignore[reportGeneralTypeIssues]  # for pydantic
    family: str
    backbone: str
    backbone_width: FiniteFloat
    fpn_width: int


class DataPaths(TypedDict):
    """The validation data of a run."""

    __pydantic_config__ = OPEN  # pyright: ignore[reportGeneralTypeIssues]  # for pydantic
    folder: NotRequired[str | None]
    val_annotations: str | None
    val_images: str | None


class DistillWords(TypedDict):
    """How a run was distilled."""

    __pydantic_config__ = OPEN  # pyright: ignore[reportGeneralTypeIssues]  # for pydantic
    teacher: str | None
    method: str


class SavedConfig(TypedDict):
    """The part of config.json that a report needs. A report also reads runs of other versions."""

    __pydantic_config__ = OPEN  # pyright: ignore[reportGeneralTypeIssues]  # for pydantic
    detector: DetectorWords
    data: DataPaths
    distill: NotRequired[DistillWords | None]


LINE = TypeAdapter(Annotated[TrainLine | EvalLine, Field(discriminator="kind")])
RESULT = TypeAdapter(Result)
CONFIG = TypeAdapter(SavedConfig)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, without an incomplete last line.

    Raises:
        UserError: a line is not a record of a run.
    """
    lines = _read(path).split(b"\n")[:-1]  # the rest after the last line break is empty or an incomplete line
    return [_valid(LINE, line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def read_result(path: Path) -> dict[str, Any]:
    """The content of a `result.json`."""
    return _valid(RESULT, _read(path), str(path), "Remove it: the run writes it again with --resume.")


def read_config(path: Path) -> dict[str, Any]:
    """The content of a `config.json`."""
    return _valid(CONFIG, _read(path), str(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def _valid(kind: TypeAdapter, text: bytes, name: str, advice: str = "") -> Any:
    try:
        return kind.validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("train", "eval")) or "the whole"
        reason = f"{place}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        reason = str(error) or "it is nested too deeply"
    raise UserError(f"{name} is not what frs-train writes there ({reason}). {advice}".rstrip())
