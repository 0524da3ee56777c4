"""The paper's pairs as presets: `frs-train train --recipe NAME` trains the teacher, `distill --recipe NAME`
the student.

Schedules and augmentation are those of the mmdetection configurations that the official code starts from;
loss weights and warm-up are the paper's. Every other option of the command line still applies on top, and the
learning rate is scaled linearly with the batch size. The mAP in `published` is the paper's, not ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from frs_train.config import DetectorConfig, DistillConfig, TrainConfig
from frs_train.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """A teacher, a student, and how the student learns."""

    name: str
    teacher: DetectorConfig
    student: DetectorConfig
    train: TrainConfig
    distill: DistillConfig
    published: dict[str, float]
    """COCO val2017 mAP of the paper, in per cent."""


SINGLE_SCALE = (800,)
RANGE_640 = tuple(range(640, 801, 32))
RANGE_480 = tuple(range(480, 801, 32))


def _pair(base: DetectorConfig) -> dict[str, DetectorConfig]:
    """ResNet-101 and ResNet-50 from ImageNet, stem and first stage frozen, batch norm frozen."""
    base = replace(base, weights="imagenet", trainable_layers=3, backbone_norm="frozen")
    return {"teacher": replace(base, backbone="resnet101"), "student": replace(base, backbone="resnet50")}


def _schedule(epochs: float, lr: float = 0.01, clip: float = 0.0) -> TrainConfig:
    """1x is 12 epochs and 2x 24; the rate is for a batch of 16 and falls after 8/12 and 11/12 of the run."""
    return TrainConfig(epochs=epochs, batch_size=16, lr=lr, lr_batch=16, lr_warmup=500, clip=clip)


def _frs(feat_weight: float, head_weight: float) -> DistillConfig:
    return DistillConfig(
        feat_weight=feat_weight,
        head_weight=head_weight,
        warmup_iters=500,
        adapter="conv3x3",
        inherit_head=False,
    )


RECIPES: dict[str, Recipe] = {
    "retinanet-r101-r50-2x": Recipe(
        "retinanet-r101-r50-2x",
        **_pair(DetectorConfig(family="retinanet", min_size=SINGLE_SCALE)),
        train=_schedule(24),
        distill=_frs(0.005, 0.02),
        published={"teacher": 38.9, "student": 37.4, "frs": 39.7},
    ),
    "gfl-r101-r50-1x": Recipe(
        "gfl-r101-r50-1x",
        **_pair(DetectorConfig(family="gfl", min_size=SINGLE_SCALE)),
        train=_schedule(12),
        distill=_frs(0.1, 0.05),
        published={"teacher": 44.9, "student": 40.2, "frs": 43.6},
    ),
    "gfl-r101-r50-2x": Recipe(
        "gfl-r101-r50-2x",
        **_pair(DetectorConfig(family="gfl", min_size=RANGE_480)),
        train=_schedule(24),
        distill=_frs(0.1, 0.05),
        published={"teacher": 44.9},
    ),
    "faster-rcnn-r101-r50-1x": Recipe(
        "faster-rcnn-r101-r50-1x",
        **_pair(DetectorConfig(family="faster-rcnn", min_size=SINGLE_SCALE)),
        train=_schedule(12, lr=0.02),
        distill=_frs(0.002, 0.1),
        published={"teacher": 39.4, "student": 37.4, "frs": 39.5},
    ),
    "fcos-r101-r50-2x": Recipe(
        "fcos-r101-r50-2x",
        **_pair(DetectorConfig(family="fcos", min_size=RANGE_640)),
        train=_schedule(24, clip=35.0),
        distill=_frs(0.01, 0.05),
        published={"teacher": 40.8, "student": 38.5, "frs": 40.9},
    ),
}


def find_recipe(name: str) -> Recipe:
    """The recipe of a name. Raises `UserError` listing the names there are."""
    if name not in RECIPES:
        raise UserError(f"There is no recipe {name!r}. Choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]
