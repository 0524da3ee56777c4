"""What is measured: a model in a runtime at an image size."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from frs_train.config import MULTIPLE
from frs_train.detectors import Detector, OnnxDetector
from frs_train.errors import UserError
from frs_train.evaluation.complexity import flops, parameter_count, weight_bytes
from frs_train.report.benchmark.models import Model, Score


@dataclass(frozen=True)
class Candidate:
    """A model in a runtime at an image size."""

    name: str
    runtime: str
    """`torch` or `onnx`."""
    size: int
    """Shorter image side in pixels."""
    parameters: int | None
    """None for an ONNX file, in which weights and other constants look the same."""
    weight_bytes: int
    """Of the weights; of the whole file for ONNX."""
    flops: int | None
    """Floating-point operations of the detection in one image by PyTorch; None for an ONNX file."""
    score: Score | None
    """None also at another size than that of the evaluation."""
    detect: Callable[[Sequence[Tensor]], Any]
    """Takes images [3, H, W] in 0..1, as `Detector.detect`."""


def candidates(model: Model, size: int, runtimes: Sequence[str], image: Tensor) -> list[Candidate]:
    """A model at an image size in each runtime; an ONNX file in its own.

    Args:
        image: [3, H, W] in 0..1, on which the operations are counted.

    Raises:
        UserError: a run cannot be exported as ONNX, or a package for it is missing.
    """
    if isinstance(model.detector, OnnxDetector):
        length = Path(model.source).stat().st_size
        return [Candidate(model.name, "onnx", size, None, length, None, None, model.detector.detect)]
    detector = copy.copy(model.detector)  # the weights are shared
    detector.config = replace(detector.config, min_size=(size,))
    torch_candidate = Candidate(
        name=model.name,
        runtime="torch",
        size=size,
        parameters=parameter_count(detector),
        weight_bytes=weight_bytes(detector),
        flops=flops(detector, image),
        score=model.score if size == model.own_size else None,
        detect=detector.detect,
    )
    return [
        torch_candidate if runtime == "torch" else exported(torch_candidate, model, detector)
        for runtime in runtimes
    ]


def exported(candidate: Candidate, model: Model, detector: Detector) -> Candidate:
    """A candidate as `frs-train export --format onnx` writes it, for square images of its size."""
    from frs_train.detectors.onnx_export import onnx_model  # which imports the exporter of torch

    try:
        content = onnx_model(detector, model.classes, canvas_of(candidate.size))
    except UserError as error:
        raise UserError(f"--runtime onnx, {model.source}: {error}") from None
    onnx = OnnxDetector(content, model.name)
    return replace(candidate, runtime="onnx", weight_bytes=len(content), detect=onnx.detect)


def canvas_of(size: int) -> tuple[int, int]:
    """The input (height, width) of an exported network for square images of this side."""
    side = -(-size // MULTIPLE) * MULTIPLE
    return side, side


@functools.cache
def photograph(side: int, device: torch.device) -> Tensor:
    """A photograph [3, side, side] in 0..1, so that there is something to detect."""
    with Image.open(str(files("skimage") / "data" / "astronaut.png")) as file:
        image = file.convert("RGB").resize((side, side))
    return functional.to_dtype(functional.pil_to_tensor(image), torch.float32, scale=True).to(device)
