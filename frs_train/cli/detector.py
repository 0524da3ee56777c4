"""The detector that a command is given: a run, a checkpoint, torchvision's, or an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from frs_train.errors import UserError

if TYPE_CHECKING:
    import torch

    from frs_train.detectors import Detector, OnnxDetector
    from frs_train.log import Log


def is_onnx(source: str) -> bool:
    """Whether a detector is an exported file."""
    from frs_train.detectors.onnx_file import SUFFIX

    return source.endswith(SUFFIX)


def device_for(name: str, onnx: bool) -> torch.device:
    """The device that `--device` names. Raises `UserError` if it does not exist, or if `onnx` and it is not
    the CPU."""
    from frs_train import distributed

    if onnx and name not in ("auto", "cpu"):
        raise UserError(f"--device is {name}, and ONNX models run on the CPU only.")
    return distributed.pick_device("cpu" if onnx else name)


def open_detector(source: str, device: torch.device, log: Log) -> tuple[Detector | OnnxDetector, list[str]]:
    """A detector in evaluation mode on a device, and its classes."""
    from frs_train.detectors import OnnxDetector
    from frs_train.training.checkpoint import read_detector

    if is_onnx(source):
        onnx = OnnxDetector(Path(source))
        return onnx, onnx.classes
    detector, classes = read_detector(source, log)
    return detector.to(device), classes
