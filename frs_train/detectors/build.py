"""From a configuration to a detector."""

from __future__ import annotations

from importlib import import_module

from frs_train.config import DetectorConfig
from frs_train.detectors.base import Detector

FAMILIES = {
    "retinanet": "retinanet",
    "fcos": "fcos",
    "faster-rcnn": "faster_rcnn",
    "gfl": "gfl",
}  # name -> module


def build_detector(config: DetectorConfig, num_classes: int) -> Detector:
    """A detector of `num_classes` object classes (background not counted).

    Raises:
        ValueError: no class at all.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; a detector needs at least one object class")
    return import_module(f"frs_train.detectors.{FAMILIES[config.family]}").build(config, num_classes)
