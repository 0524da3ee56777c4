"""Detectors, each usable as teacher and as student: `build_detector(config, num_classes)`."""

from frs_train.detectors.base import Detector, Outputs, Target
from frs_train.detectors.build import build_detector

__all__ = ["Detector", "Outputs", "Target", "build_detector"]
