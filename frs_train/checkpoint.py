"""Checkpoints: written whole or not at all, and read with `weights_only=True`.

A file is a dictionary of plain types and tensors: `format`, `config` (see `config.to_dict`), `classes`,
`iteration`, `model`, and for resuming `ema`, `loss`, `optimizer`, `scaler`. It has no RNG state, for every
draw of an iteration is a function of the seed and the iteration (see `data`).
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from frs_train.config import RunConfig, from_dict
from frs_train.detectors import Detector, build_detector
from frs_train.errors import UserError

FORMAT = "frs-train/1"


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file by new content; whatever happens, the path holds the old or the new, complete.

    Raises `UserError` if the content cannot be written (a full disk, no permission).
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(part)
        raise UserError(
            f"{path} cannot be written: {error.strerror}. What was there before is unharmed. Make room or "
            "choose another folder, then run the same command with --resume."
        ) from None


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # what cannot be written cannot be tidied either; the first error is the one to report


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(folder: Path, iteration: int, content: dict[str, Any], keep: int) -> Path:
    """Writes `checkpoint-<iteration>.pt`, and then removes all but the newest `keep`."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "iteration": iteration, **content}, buffer)
    path = folder / f"checkpoint-{iteration:08d}.pt"
    write_atomically(path, buffer.getbuffer())
    for old in checkpoints(folder)[max(keep, 1) :]:
        _remove(old)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)


def load(path: Path) -> dict[str, Any]:
    """The content of one checkpoint, on the CPU. Raises `UserError` if it is damaged or something else."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise UserError(f"Checkpoint {path} is damaged (in its part {damaged}).")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"Checkpoint {path} does not exist. Give a run folder or a checkpoint file."
        ) from None
    except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged, or no checkpoint of frs-train: {reason}.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of frs-train: it is not marked {FORMAT!r}.")
    return content


def newest(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest readable checkpoint of a run, or None if it has none at all. Damaged ones are named to
    `warn`.

    Raises `UserError` if there are checkpoints and none is readable.
    """
    found = checkpoints(folder)
    for path in found:
        try:
            return load(path)
        except UserError as error:
            warn(f"{error} Trying the one before.")
    if found:
        raise UserError(
            f"None of the {len(found)} checkpoints in {folder} is readable. Remove them to start afresh."
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


def config_of(content: dict[str, Any]) -> RunConfig:
    """The configuration a checkpoint was made with."""
    try:
        return from_dict(RunConfig, content["config"])
    except UserError as error:
        raise UserError(f"The checkpoint's configuration does not fit this version: {error}") from None


def restore(content: dict[str, Any]) -> tuple[Detector, list[str]]:
    """The detector of a checkpoint (its moving average where it has one), in evaluation mode, and its
    classes."""
    config = config_of(content).detector
    try:
        detector = build_detector(config, len(content["classes"]))
    except ValueError as error:
        raise UserError(f"The checkpoint's detector cannot be built: {error}.") from None
    load_weights(detector, content.get("ema") or content["model"], "the checkpoint")
    return detector.eval(), content["classes"]


def load_weights(module: torch.nn.Module, state: dict[str, Any], name: str) -> None:
    """`load_state_dict` whose refusal is one paragraph."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise UserError(f"The weights of {name} do not fit this model: {' '.join(lines)}") from None
