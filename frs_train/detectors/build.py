"""`build_detector`, which creates a detector from its configuration."""

from __future__ import annotations

from importlib import import_module

from frs_train.config import DetectorConfig
from frs_train.detectors.base import Detector

# family -> module
FAMILIES = {"retinanet": "retinanet", "fcos": "fcos", "faster-rcnn": "faster_rcnn", "gfl": "gfl"}


def build_detector(config: DetectorConfig, num_classes: int) -> Detector:
    """A detector with random weights for `num_classes` object classes, not counting the background.

    Raises:
        ValueError: `num_classes` is below 1.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; a detector needs at least one object class")
    return import_module(f"frs_train.detectors.{FAMILIES[config.family]}").build(config, num_classes)
