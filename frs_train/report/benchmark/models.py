"""The models of a benchmark: opened from runs and prepared for an image size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frs_train.detectors import Detector
from frs_train.errors import UserError
from frs_train.evaluation.complexity import flops, parameter_count, weight_bytes
from frs_train.log import Log
from frs_train.training import checkpoint
from frs_train.training.run_files import read_result


@dataclass(frozen=True)
class Score:
    """The AP of a run at the end of its training."""

    ap: float
    """As a fraction."""
    validation: str
    """The annotation file of the validation set."""


@dataclass(frozen=True)
class Model:
    """A detector of a run, a checkpoint or torchvision, in evaluation mode."""

    name: str
    source: str
    detector: Detector
    score: Score | None


@dataclass(frozen=True)
class Candidate:
    """What is measured: a model in a runtime at an image size."""

    name: str
    runtime: str
    size: int
    """Shorter image side in pixels."""
    parameters: int
    weight_bytes: int
    flops: int
    """Floating-point operations of the detection in one image."""
    score: Score | None
    """None also at another size than that of the evaluation."""
    detect: Callable[[Sequence[Tensor]], Any]
    """Takes images [3, H, W] in 0..1, as `Detector.detect`."""


def open_models(sources: Sequence[str], device: torch.device, log: Log) -> list[Model]:
    """The detectors of run folders, checkpoint files and `torchvision:NAME`. A model has the name of its
    folder or file, or its path if two share a name.

    Raises `UserError` if one cannot be read.
    """
    names = [source if _is_torchvision(source) else Path(source).resolve().name for source in sources]
    unique = (name if names.count(name) == 1 else source for source, name in zip(sources, names, strict=True))
    return [_open(source, name, device, log) for source, name in zip(sources, unique, strict=True)]


def _open(source: str, name: str, device: torch.device, log: Log) -> Model:
    if _is_torchvision(source):
        return Model(name, source, checkpoint.read_detector(source, log)[0].to(device), None)
    content = checkpoint.read(Path(source), log.warn)
    detector, _ = checkpoint.restore(content, checkpoint.name_of(Path(source), content))
    return Model(name, source, detector.to(device), _score(Path(source), content))


def _is_torchvision(source: str) -> bool:
    return source.startswith("torchvision:")


def _score(source: Path, content: dict[str, Any]) -> Score | None:
    """The score of a run folder, if `result.json` is that of its newest checkpoint."""
    file = source / "result.json"
    if not file.is_file():
        return None
    result = read_result(file)
    if result["iterations"] != content["iteration"] or result["AP"] is None:
        return None
    return Score(result["AP"], str(checkpoint.config_of(content).data.val_annotations))


def size_of(model: Model, size: int | None) -> int:
    """The shorter image side at which a model is measured: that of its evaluation unless one is given.

    Raises `UserError` if the detector never scales an image to this size.
    """
    config = model.detector.config
    if size is not None and size > config.max_size:
        raise UserError(
            f"--sizes has {size}, but the images of {model.source} have a longer side of at most "
            f"{config.max_size} pixels (--max-size of its training). Choose smaller sizes."
        )
    return size or config.min_size[-1]


def candidate(model: Model, size: int, image: Tensor) -> Candidate:
    """A model in PyTorch at an image size; its operations are counted on `image` [3, H, W]."""
    detector = copy.copy(model.detector)  # the weights are shared
    own = detector.config.min_size[-1]
    detector.config = replace(detector.config, min_size=(size,))
    return Candidate(
        name=model.name,
        runtime="torch",
        size=size,
        parameters=parameter_count(detector),
        weight_bytes=weight_bytes(detector),
        flops=flops(detector, image),
        score=model.score if size == own else None,
        detect=detector.detect,
    )
