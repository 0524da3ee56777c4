"""Detectors, each usable as teacher and as student.

Start with `base` (what every family offers), then a family's own file; `build_detector(config, num_classes)`
makes one, `load_weights` and `from_torchvision` give it published weights, `compatibility` says what a
student can learn from a teacher, `torchvision_state_dict` turns one back into plain torchvision.
"""

from frs_train.detectors.base import Detector, Outputs, Target
from frs_train.detectors.build import build_detector
from frs_train.detectors.compatibility import Compatibility, compatibility
from frs_train.detectors.export import torchvision_model, torchvision_state_dict
from frs_train.detectors.pretrained import coco_classes, from_torchvision, load_weights

__all__ = [
    "Compatibility",
    "Detector",
    "Outputs",
    "Target",
    "build_detector",
    "coco_classes",
    "compatibility",
    "from_torchvision",
    "load_weights",
    "torchvision_model",
    "torchvision_state_dict",
]
