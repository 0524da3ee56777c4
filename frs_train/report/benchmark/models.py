"""The models of a benchmark: opened from runs and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from frs_train.detectors import Detector, OnnxDetector
from frs_train.detectors.onnx_file import SUFFIX
from frs_train.errors import UserError
from frs_train.log import Log
from frs_train.training import checkpoint
from frs_train.training.run_files import read_result


@dataclass(frozen=True)
class Score:
    """The AP of a run at the end of its training."""

    ap: float
    """As a fraction."""
    validation: str
    """The annotation file of the validation set, or the folder of the data set."""


@dataclass(frozen=True)
class Model:
    """A detector in evaluation mode."""

    name: str
    source: str
    detector: Detector | OnnxDetector
    classes: list[str]
    score: Score | None = None

    @property
    def own_size(self) -> int:
        """The shorter image side of its evaluation, in pixels."""
        size = self.detector.config.min_size
        return size if isinstance(size, int) else size[-1]

    def check_size(self, size: int) -> None:
        """Raises `UserError` if the detector never scales an image to this shorter side."""
        if isinstance(self.detector, OnnxDetector) and size != self.own_size:
            raise UserError(
                f"--sizes has {size}, but {self.source} scales images to {self.own_size} pixels and has no "
                "other size. Give the run that it was made from, with --runtime onnx."
            )
        if size > self.detector.config.max_size:
            raise UserError(
                f"--sizes has {size}, but the images of {self.source} have a longer side of at most "
                f"{self.detector.config.max_size} pixels (--max-size of its training). Choose smaller sizes."
            )


def open_models(sources: Sequence[str], device: torch.device, log: Log) -> list[Model]:
    """The detectors of run folders, checkpoint files, `torchvision:NAME` and ONNX files. A model has the name
    of its folder or file, or its path if two share a name.

    Raises `UserError` if one cannot be read.
    """
    names = [source if _is_torchvision(source) else Path(source).resolve().name for source in sources]
    unique = (name if names.count(name) == 1 else source for source, name in zip(sources, names, strict=True))
    return [_open(source, name, device, log) for source, name in zip(sources, unique, strict=True)]


def is_onnx(source: str) -> bool:
    """Whether a source is an ONNX file, which runs on the CPU only."""
    return source.endswith(SUFFIX)


def _is_torchvision(source: str) -> bool:
    return source.startswith("torchvision:")


def _open(source: str, name: str, device: torch.device, log: Log) -> Model:
    path = Path(source)
    if is_onnx(source):
        onnx = OnnxDetector(path)
        return Model(name, source, onnx, onnx.classes)
    if _is_torchvision(source):
        detector, classes = checkpoint.read_detector(source, log)
        return Model(name, source, detector.to(device), classes)
    content = checkpoint.read(path, log.warn)
    detector, classes = checkpoint.restore(content, checkpoint.name_of(path, content))
    return Model(name, source, detector.to(device), classes, _score(path, content))


def _score(source: Path, content: dict[str, Any]) -> Score | None:
    """The score of a run folder, if `result.json` is that of its newest checkpoint."""
    file = source / "result.json"
    if not file.is_file():
        return None
    result = read_result(file)
    if result["iterations"] != content["iteration"] or result["AP"] is None:
        return None
    data = checkpoint.config_of(content).data
    return Score(result["AP"], str(data.val_annotations or data.folder))
