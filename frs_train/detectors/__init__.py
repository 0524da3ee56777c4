"""The detectors, each of which can be a teacher or a student.

Start with `base`, the interface of all families, then read the file of a family. `build_detector(config,
num_classes)` builds a detector; `load_weights` and `from_torchvision` load published weights; `compatibility`
says which losses a student and a teacher can share; `torchvision_state_dict` converts a detector to plain
torchvision, and `onnx_export.onnx_model` to an ONNX model, which `OnnxDetector` runs.
"""

from frs_train.detectors.base import Detector, Outputs, Target
from frs_train.detectors.build import build_detector
from frs_train.detectors.compatibility import Compatibility, compatibility
from frs_train.detectors.export import torchvision_model, torchvision_state_dict
from frs_train.detectors.onnx_file import OnnxDetector
from frs_train.detectors.pretrained import coco_classes, from_torchvision, load_weights

__all__ = [
    "Compatibility",
    "Detector",
    "OnnxDetector",
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
