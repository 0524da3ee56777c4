"""Published weights of torchvision. No other module of this package downloads anything."""

from __future__ import annotations

from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.models import WeightsEnum, get_model_weights

from frs_train.config import DetectorConfig
from frs_train.detectors.base import DenseDetector, Detector
from frs_train.detectors.build import build_detector
from frs_train.detectors.export import CLASS_LAYER, pick_rows
from frs_train.errors import UserError

CATALOGUE = {  # name in torchvision -> configuration of the same detector
    "retinanet_resnet50_fpn": DetectorConfig(
        family="retinanet", backbone="resnet50", weights="coco", backbone_norm="frozen"
    ),
    "retinanet_resnet50_fpn_v2": DetectorConfig(
        family="retinanet", backbone="resnet50", weights="coco", head_norm="group"
    ),
    "fcos_resnet50_fpn": DetectorConfig(
        family="fcos", backbone="resnet50", weights="coco", backbone_norm="frozen"
    ),
    "fasterrcnn_resnet50_fpn": DetectorConfig(
        family="faster-rcnn", backbone="resnet50", weights="coco", backbone_norm="frozen"
    ),
}
ZERO_EPSILON = ("retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn")  # trained with epsilon 0 in batch norm
SHAPE_OPTIONS = (
    "family",
    "backbone",
    "backbone_width",
    "fpn_width",
    "head_convs",
    "head_norm",
    "anchor_size",
)


def coco_classes() -> list[str]:
    """Names of the 80 COCO classes in the order of their ids. Class i has label i + 1."""
    names = get_model_weights("retinanet_resnet50_fpn").DEFAULT.meta["categories"]
    return [names[i] for i in _coco_ids()]


def from_torchvision(name: str) -> Detector:
    """A COCO detector of torchvision as a `Detector` with 80 classes, labels 1..80 as in `coco_classes`.

    Raises:
        UserError: the name is unknown, or the weights cannot be downloaded.
    """
    if name not in CATALOGUE:
        raise UserError(f"torchvision:{name} is unknown; choose one of {', '.join(CATALOGUE)}.")
    detector = build_detector(CATALOGUE[name], len(_coco_ids()))
    load_weights(detector)
    return detector


def load_weights(detector: Detector) -> None:
    """Loads the published weights that the configuration names: "coco", "imagenet" or None (none).

    With "coco", the classification layer keeps its random weights unless the detector has 80 classes.

    Raises:
        UserError: there are none for this architecture, or they cannot be downloaded.
    """
    kind = detector.config.weights
    if kind == "coco":
        _load_coco(detector)
    elif kind == "imagenet":
        _load_imagenet(detector)


def _load_coco(detector: Detector) -> None:
    def shape(config: DetectorConfig) -> list:
        return [getattr(config, option) for option in SHAPE_OPTIONS]

    name = next((n for n, known in CATALOGUE.items() if shape(known) == shape(detector.config)), None)
    if name is None:
        raise UserError(
            f"--weights coco: torchvision has none for {detector.family} with this backbone and widths. "
            f"It has them for {', '.join(CATALOGUE)}."
        )
    state = adapt_coco(_fetch(get_model_weights(name).DEFAULT), detector, name in ZERO_EPSILON)
    missing, unexpected = detector.model.load_state_dict(state, strict=False)
    _check(name, [key for key in missing if not _is_class_layer(key)], unexpected)


def adapt_coco(state: dict[str, Tensor], detector: Detector, zero_epsilon: bool) -> dict[str, Tensor]:
    """torchvision's COCO weights, adapted to a detector.

    The classification layer has the rows of the 80 classes (91 are stored), or is left out if the detector
    has another number of classes. `zero_epsilon` subtracts the epsilon of batch norm from the variances.
    """
    coco = _coco_ids()
    layers = {CLASS_LAYER: (detector.num_anchors, coco)}
    if not isinstance(detector, DenseDetector):
        predictor, rows = "roi_heads.box_predictor", [0, *coco]
        corners = [4 * row + side for row in rows for side in range(4)]
        layers = {f"{predictor}.cls_score": (1, rows), f"{predictor}.bbox_pred": (1, corners)}
    adapted = {}
    for key, value in state.items():
        layer = layers.get(key.rpartition(".")[0])
        if zero_epsilon and key.endswith("running_var"):
            value = value - 1e-5
        if layer is None:
            adapted[key] = value
        elif detector.num_classes == len(coco):
            adapted[key] = pick_rows(value, *layer)
    own = detector.model.state_dict()
    return {
        key: value for key, value in adapted.items() if key in own or not key.endswith("num_batches_tracked")
    }


def _load_imagenet(detector: Detector) -> None:
    config = detector.config
    if config.backbone_width != 1 or config.backbone == "resnet10" or config.backbone_norm == "group":
        raise UserError(
            f"--weights imagenet: torchvision has none for {config.backbone} at width "
            f"{config.backbone_width} with {config.backbone_norm} norm. Use a full-width resnet18 "
            "to resnet101 or mobilenet-v3, and frozen or batch norm, or train from scratch."
        )
    mobile = config.backbone == "mobilenet-v3"
    weights = get_model_weights("mobilenet_v3_large" if mobile else config.backbone).IMAGENET1K_V1
    state = {key.removeprefix("features."): value for key, value in _fetch(weights).items()}
    missing, _ = detector.model.backbone.body.load_state_dict(state, strict=False)
    _check(str(weights), [key for key in missing if not key.endswith("num_batches_tracked")], [])


def _fetch(weights: WeightsEnum) -> dict[str, Tensor]:
    """The weights, from the cache of torch.hub or downloaded."""
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"{weights} cannot be downloaded from {weights.url} ({error}). Without a network connection, put "
            f"that file into {torch.hub.get_dir()}/checkpoints, or use another checkpoint."
        ) from None


def _check(name: str, missing: list[str], unexpected: list[str]) -> None:
    if missing or unexpected:
        raise UserError(
            f"{name}: the weights do not fit this detector: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}."
        )


def _is_class_layer(key: str) -> bool:
    return key.startswith((CLASS_LAYER, "roi_heads.box_predictor.")) or key.endswith("num_batches_tracked")


def _coco_ids() -> list[int]:
    names = get_model_weights("retinanet_resnet50_fpn").DEFAULT.meta["categories"]
    return [i for i, name in enumerate(names) if name not in ("__background__", "N/A")]
