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
        ValueError: an option that does not exist, or does not go with another.
    """
    if config.family not in FAMILIES:
        raise ValueError(f"detector {config.family!r} is unknown; choose one of {', '.join(FAMILIES)}")
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; a detector needs at least one object class")
    if not 0 <= config.head_convs <= 4:
        raise ValueError(f"head_convs is {config.head_convs}; a head's towers have 0 to 4 convolutions")
    if config.anchor_size < 4:
        raise ValueError(f"anchor_size is {config.anchor_size}; anchors are at least 4 pixels wide")
    return import_module(f"frs_train.detectors.{FAMILIES[config.family]}").build(config, num_classes)
