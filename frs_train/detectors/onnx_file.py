"""An exported detector: an ONNX file that onnxruntime runs on the CPU."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from frs_train.detectors.canvas import place
from frs_train.errors import UserError
from frs_train.text import shortened

FORMAT = "frs-train-onnx/1"
SUFFIX = ".onnx"
BACKGROUND = "__background__"


@dataclass(frozen=True)
class Description:
    """What a file says about itself, in its metadata: one entry for each field, in JSON unless it is text."""

    format: str
    """`FORMAT`."""
    version: str
    """Version of frs-kernels that wrote the file."""
    family: str
    """Family of the detector."""
    classes: list[str]
    """The class of label k is `classes[k]`; 0 is the background."""
    height: int
    """Height of the network's input in pixels."""
    width: int
    """Width of the network's input in pixels."""
    min_size: int
    """Shorter side of a resized picture, if it fits."""
    max_size: int
    """Upper limit of its longer side."""
    mean: list[float]
    """What the network subtracts from red, green and blue in 0..1."""
    std: list[float]
    """What the network then divides them by."""
    score_threshold: float
    """Detections with a score above it are kept."""
    nms_threshold: float
    """IoU above which, of two boxes of the same class, the one with the lower score is dropped."""
    detections_per_image: int
    """Maximum number of detections of a picture."""

    def to_metadata(self) -> dict[str, str]:
        return {k: v if isinstance(v, str) else json.dumps(v) for k, v in asdict(self).items()}


DESCRIPTION = TypeAdapter(Description)


def description_in(metadata: dict[str, str]) -> Description | None:
    """The inverse of `Description.to_metadata`; None for the metadata of another file."""
    if metadata.get("format") != FORMAT:
        return None
    kinds = Description.__annotations__
    known = {name: value for name, value in metadata.items() if name in kinds}
    try:
        values = {k: v if kinds[k] == "str" else json.loads(v) for k, v in known.items()}
        return DESCRIPTION.validate_python(values)
    except (json.JSONDecodeError, ValidationError):
        return None


class OnnxDetector:
    """A file that `frs-train export --format onnx` has written, with the interface of `Detector` that an
    evaluation needs.

    Attributes:
        config: the `Description` in the file.
        classes: names of the labels 1..K.
        batch: the number of pictures of a run, or None if any number is possible.
        canvas: (height, width) of the network's input.
        session: onnxruntime's `InferenceSession`.
    """

    def __init__(self, source: str | Path | bytes, name: str | None = None, *, threads: int | None = None):
        """Opens a file or its content; `name` stands for it in messages. `threads` is the number of CPU
        threads, by default that of torch.

        Raises:
            UserError: onnxruntime is missing, or the file cannot be read or is not such a file.
        """
        name = name or ("The ONNX model" if isinstance(source, bytes) else str(source))
        self.session = _session(source, name, threads or torch.get_num_threads())
        config = description_in(self.session.get_modelmeta().custom_metadata_map)
        if config is None:
            raise UserError(f"{name} is not a detector that `frs-train export --format onnx` has written.")
        self.config = config
        self.family = config.family
        self.classes = config.classes[1:]
        self.num_classes = len(self.classes)
        self.canvas = config.height, config.width
        first = self.session.get_inputs()[0].shape[0]
        self.batch = first if isinstance(first, int) else None

    def eval(self) -> OnnxDetector:
        """Itself: there is no other mode."""
        return self

    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detections of each image float [3, h, w] in 0..1: boxes [N, 4] xyxy in pixels of the image, scores,
        labels 1..K, highest scores first. The images may have any sizes."""
        step = self.batch or max(len(images), 1)
        found = []
        for start in range(0, len(images), step):
            found += self._detect([image.detach().cpu() for image in images[start : start + step]])
        return found

    def _detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        pixels = np.zeros((self.batch or len(images), 3, *self.canvas), np.float32)
        sizes = np.tile(np.array(self.canvas, np.int64), (len(pixels), 1))
        for row, image in enumerate(images):
            picture = image.float().numpy()
            pixels[row], sizes[row] = place(picture, self.config.min_size, self.config.max_size, self.canvas)
        results = self.run(pixels, sizes)
        return [_picked(results, row, image, sizes[row]) for row, image in enumerate(images)]

    def run(self, images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        """Runs the network: the outputs by name for prepared pictures (see `canvas.place`), images float32
        [B, 3, H, W] in 0..1 and sizes int64 [B, 2]."""
        names = [output.name for output in self.session.get_outputs()]
        values = self.session.run(names, {"images": images, "sizes": sizes})
        return dict(zip(names, values, strict=True))


def _picked(results: dict[str, np.ndarray], row: int, image: Tensor, size: np.ndarray) -> dict[str, Tensor]:
    """The detections of a picture without padding, boxes in pixels of the picture."""
    count = results["count"][row]
    found = {key: torch.from_numpy(results[key][row, :count]) for key in ("boxes", "scores", "labels")}
    down, across = image.shape[-2] / float(size[0]), image.shape[-1] / float(size[1])
    return {**found, "boxes": found["boxes"] * torch.tensor([across, down, across, down])}


def _session(source: str | Path | bytes, name: str, threads: int) -> Any:
    need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}.") from None
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many types, none of which is public
        reason = shortened(" ".join(str(error).split()), 200)
        raise UserError(f"{name} is damaged, or no ONNX file that onnxruntime can run: {reason}.") from None


def need(*packages: str) -> None:
    """Raises `UserError` if one of these packages is not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX files need the package {missing[0]}, which is not installed: "
            "pip install 'frs-kernels[export]'."
        )
