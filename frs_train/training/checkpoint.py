"""Checkpoints: written completely or not at all, and read with `weights_only=True`.

A file is a dictionary of plain types and tensors (see `Content`). It has no RNG state, because every draw is
a function of the seed and the iteration (see `streams`). Reading a file raises only `UserError`, whatever it
contains.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from frs_train.config import RunConfig
from frs_train.detectors import Detector, build_detector, coco_classes, from_torchvision
from frs_train.detectors.onnx_file import SUFFIX
from frs_train.errors import UserError
from frs_train.files import remove, write_atomically
from frs_train.log import Log
from frs_train.options import from_dict

FORMAT = "frs-train/1"
BEST = "best.pt"
NAME = re.compile(r"checkpoint-(\d{8}|[1-9]\d{8,})\.pt", re.ASCII)  # see `path_of`

Tensors = dict[str, Tensor]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Classes = Annotated[list[str], Field(min_length=1)]


class Content(TypedDict):
    """The content that every checkpoint has. It suffices for detection: the demo's teacher has no more."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True, arbitrary_types_allowed=True)  # pyright: ignore[reportGeneralTypeIssues]  # for pydantic
    format: Literal["frs-train/1"]
    config: dict[str, Any]
    """See `options.to_dict`."""
    classes: Classes
    iteration: Count
    """Optimizer steps taken so far."""
    model: Tensors
    ema: NotRequired[Tensors | None]
    """The moving average of the weights, which is used for detection if there is one."""


class Resumable(Content):
    """The content that a run needs in order to resume."""

    ema_steps: Count
    loss: Tensors
    """Adapters and warm-up of the distillation."""
    optimizer: dict[str, Any]
    scaler: dict[str, Any]


CONTENT, RESUMABLE = TypeAdapter(Content), TypeAdapter(Resumable)


def save(folder: Path, iteration: int, content: dict[str, Any], keep: int) -> Path:
    """Writes the checkpoint of an iteration, and removes the run's checkpoints except the newest `keep` up to
    and including this one, which stays even if `keep` is 0.

    Checkpoints of later iterations are removed too: they were unreadable, or the run would have resumed from
    them.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "iteration": iteration, **content}, buffer)
    path = path_of(folder, iteration)
    with buffer.getbuffer() as view:  # Python 3.12.1 crashes if the garbage collector has to release it
        write_atomically(path, view)
    existing = checkpoints(folder)
    first = existing.index(path)
    for other in existing[:first] + existing[first + max(keep, 1) :]:
        remove(other)
    return path


def keep_as_best(path: Path) -> None:
    """Copies a checkpoint to `best.pt` in its folder, which neither `save` nor a resumed run removes."""
    write_atomically(path.with_name(BEST), path.read_bytes())


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints that a run has written into its folder, newest first. A file is one of them if `save`
    would give it its name."""
    names = ((path, NAME.fullmatch(path.name)) for path in folder.glob("checkpoint-*.pt") if path.is_file())
    by_iteration = {int(match[1]): path for path, match in names if match}
    return [by_iteration[iteration] for iteration in sorted(by_iteration, reverse=True)]


def path_of(folder: Path, iteration: int) -> Path:
    """The path of the checkpoint of an iteration in a run folder."""
    return folder / f"checkpoint-{iteration:08d}.pt"


def load(path: Path) -> dict[str, Any]:
    """The `Content` of one checkpoint, on the CPU. Raises `UserError` if it is damaged or no checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise UserError(f"Checkpoint {path} is damaged (in its part {damaged}).")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(
            f"Checkpoint {path} does not exist. Give a run folder or a checkpoint file."
        ) from None
    except Exception as error:  # torch.load raises exceptions of many types on a file of another kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged, or not a checkpoint of frs-train: {reason}.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of frs-train: it is not marked {FORMAT!r}.")
    checked(CONTENT, content, str(path))
    return content  # not a validated copy, which would lose the module versions of the state dictionaries


def checked(kind: TypeAdapter, content: Any, name: str) -> Any:
    """A copy of the content, validated as this type. Raises `UserError` if it is invalid."""
    try:
        return kind.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{name} is a damaged checkpoint of frs-train ({place}: {first['msg']}).") from None


def newest(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The content of a run's newest readable checkpoint, or None if there is no checkpoint. `warn` gets a
    message about each damaged one.

    Raises `UserError` if there are checkpoints and none is readable.
    """
    existing = checkpoints(folder)
    for path in existing:
        try:
            return load(path)
        except UserError as error:
            warn(f"{error} Trying the one before.")
    if existing:
        raise UserError(
            f"None of the {len(existing)} checkpoints in {folder} is readable. Remove them to start from "
            "the beginning."
        )
    return None


def read(source: Path, warn: Callable[[str], None]) -> dict[str, Any]:
    """The content of a checkpoint file, or of the newest readable checkpoint of a run folder."""
    if not source.is_dir():
        return load(source)
    content = newest(source, warn)
    if content is None:
        raise UserError(
            f"{source} has no checkpoint. Give a run folder of `frs-train train` or `distill`, or a file."
        )
    return content


def name_of(source: Path, content: dict[str, Any]) -> str:
    """The path of the checkpoint whose content `read` returned for this file or run folder."""
    return str(path_of(source, content["iteration"]) if source.is_dir() else source)


def config_of(content: dict[str, Any], name: str = "the checkpoint") -> RunConfig:
    """The configuration of the run that wrote a checkpoint; `name` is used in the error message."""
    try:
        return from_dict(RunConfig, content["config"])
    except UserError as error:
        raise UserError(f"The configuration in {name} does not fit this version: {error}") from None


def restore(content: dict[str, Any], name: str = "the checkpoint") -> tuple[Detector, list[str]]:
    """The detector of a checkpoint (its moving average, if there is one), in evaluation mode, and its
    classes."""
    config = config_of(content, name).detector
    try:
        detector = build_detector(config, len(content["classes"]))
    except ValueError as error:
        raise UserError(f"The detector in {name} cannot be built: {error}.") from None
    load_weights(detector, content.get("ema") or content["model"], name)
    return detector.eval(), content["classes"]


def load_weights(module: torch.nn.Module, state: Tensors, name: str) -> None:
    """Calls `load_state_dict`; a mismatch is a `UserError` of one paragraph."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise UserError(f"The weights of {name} do not fit this model: {' '.join(lines)}") from None


def read_run(source: str, log: Log) -> tuple[Detector, list[str], RunConfig | None]:
    """A detector in evaluation mode, its classes and the configuration of its run: from a run folder, a
    checkpoint, or `torchvision:NAME`, which has no run."""
    kind, _, name = source.partition(":")
    if kind == "torchvision":
        return from_torchvision(name).eval(), coco_classes(), None
    if source.endswith(SUFFIX):
        raise UserError(f"{source} is an ONNX file. Give the run folder or checkpoint that it was made from.")
    path = Path(source)
    content = read(path, log.warn)
    return *restore(content, name_of(path, content)), config_of(content)


def read_detector(source: str, log: Log) -> tuple[Detector, list[str]]:
    """A detector in evaluation mode and its classes; see `read_run`."""
    return read_run(source, log)[:2]
