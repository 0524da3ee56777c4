"""The recipes: presets of options for the pairs of teacher and student in the paper.

`frs-train train --recipe NAME` trains the teacher, `distill --recipe NAME` the student. Schedules and
augmentation follow the mmdetection configurations of the official code; loss weights and warm-up are those of
the paper. Options on the command line override those of the recipe, and the learning rate scales linearly
with the batch size. `published` is the mAP in the paper; it has not been reproduced with this package.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from frs_train.config import DetectorConfig, DistillConfig, TrainConfig
from frs_train.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """The options of a teacher and a student, and the name of the preset."""

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
    """ResNet-101 and ResNet-50 with ImageNet weights; stem, first stage and batch norm are frozen."""
    base = replace(base, weights="imagenet", trainable_layers=3, backbone_norm="frozen")
    return {"teacher": replace(base, backbone="resnet101"), "student": replace(base, backbone="resnet50")}


def _schedule(epochs: float, lr: float = 0.01, clip: float = 0.0) -> TrainConfig:
    """12 epochs (1x) or 24 (2x). `lr` is for a batch of 16, and is divided by 10 after 8/12 and 11/12."""
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
    """The recipe with this name. Raises `UserError`, which lists the names, if there is none."""
    if name not in RECIPES:
        raise UserError(f"There is no recipe {name!r}. Choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]
