"""The check of an exported detector: it has to detect what the detector in torch detects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frs_train.detectors import Detector, OnnxDetector
from frs_train.detectors.canvas import fitted
from frs_train.errors import UserError

BOX = 0.1  # pixels of the network's input by which the side of a box may differ
SCORE = 1e-3  # difference of two scores that are equal but for rounding
SHARE = 0.01  # of the detections that may lack a partner. Of two boxes of a class with nearly equal scores,
# or with nearly the IoU of the threshold, rounding decides which is suppressed.
PICTURES = 2  # of a run, if the file leaves their number open

Detections = dict[str, Tensor]


@dataclass
class Comparison:
    """The result of a check, summed over pictures."""

    pictures: int = 0
    detections: int = 0
    """Detections of the detector in torch."""
    box: float = 0.0
    """Largest difference of the side of a box between partners, in pixels of the network's input."""
    score: float = 0.0
    """Largest difference of a score between partners."""
    alone: int = 0
    """Detections of either detector without a partner."""

    @property
    def passed(self) -> bool:
        return self.alone <= SHARE * self.detections

    def __str__(self) -> str:
        text = (
            f"{self.pictures} pictures: {self.detections} detections, largest difference of a box "
            f"{self.box:.1g} px, of a score {self.score:.1g}"
        )
        return text + (f", {self.alone} without a counterpart" if self.alone else "")


def check_export(
    exported: OnnxDetector,
    detector: Detector,
    pictures: Sequence[Tensor],
    tell: Callable[..., None] = lambda **news: None,
) -> Comparison:
    """Compares the detections of both on pictures float [3, h, w] in 0..1.

    Two detections are partners if they have the same label, and boxes and scores that differ by at most `BOX`
    and `SCORE`. Those near the lowest score that is kept need no partner.

    Raises:
        UserError: detections lack a partner, more than a share of `SHARE`.
    """
    result = Comparison(len(pictures))
    step = exported.batch or PICTURES
    for start in range(0, len(pictures), step):
        batch = pictures[start : start + step]
        for picture, found in zip(batch, exported.detect(batch), strict=True):
            compare(result, detector.detect_on_canvas(picture, exported.canvas), found, picture, exported)
            tell(advance=1)
    if not result.passed:
        raise UserError(
            f"The ONNX model does not detect what the checkpoint detects ({result}; allowed are {BOX:g} px, "
            f"{SCORE:g}, and {SHARE:.0%} without a counterpart). No file is written. The fault is in the "
            "export or in one of its packages: try other releases of torch, onnxscript and onnxruntime."
        )
    return result


def compare(
    result: Comparison, wanted: Detections, found: Detections, picture: Tensor, exported: OnnxDetector
) -> None:
    """Adds the comparison of the detections of a picture to a result."""
    config = exported.config
    height, width = picture.shape[-2:]
    down, across = fitted(height, width, config.min_size, config.max_size, exported.canvas)
    sides = torch.tensor([across / width, down / height] * 2)
    box = ((wanted["boxes"][:, None] - found["boxes"][None]) * sides).abs().amax(2)
    score = (wanted["scores"][:, None] - found["scores"][None]).abs()
    distance = torch.maximum(box / BOX, score / SCORE)
    distance[wanted["labels"][:, None] != found["labels"][None]] = torch.inf
    partners = distance <= 1
    result.detections += len(wanted["scores"])
    for side, detections in ((1, wanted), (0, found)):
        scores = detections["scores"]
        full = len(scores) == config.detections_per_image
        lowest = max(config.score_threshold, float(scores.min()) if full else 0.0)
        result.alone += int((~partners.any(side) & (scores > lowest + SCORE)).sum())
    if partners.any():
        rows = partners.any(1)
        columns = distance[rows].argmin(1)
        result.box = max(result.box, float(box[rows, columns].max()))
        result.score = max(result.score, float(score[rows, columns].max()))
