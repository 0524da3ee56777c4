"""The commands `train` and `distill`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import tyro

from frs_train.cli.command import Command
from frs_train.config import DistillConfig, RunConfig
from frs_train.recipes import Recipe

if TYPE_CHECKING:
    from frs_train.log import Log


@dataclass(frozen=True)
class PlainRunConfig(RunConfig):
    """Options of `train`: those of a run without distillation."""

    distill: tyro.conf.Suppress[None] = None


@dataclass(frozen=True)
class DistilledRunConfig(RunConfig):
    """Options of `distill`: those of a run with distillation."""

    distill: DistillConfig = field(default_factory=DistillConfig)


def train(config: RunConfig, log: Log) -> None:
    from frs_train.training.run import fit

    fit(RunConfig(**{option.name: getattr(config, option.name) for option in fields(config)}), log)


def teacher_of(recipe: Recipe) -> PlainRunConfig:
    return PlainRunConfig(tyro.MISSING, detector=recipe.teacher, train=recipe.train, recipe=recipe.name)


def student_of(recipe: Recipe) -> DistilledRunConfig:
    return DistilledRunConfig(
        tyro.MISSING, detector=recipe.student, train=recipe.train, distill=recipe.distill, recipe=recipe.name
    )


TRAIN = Command(
    "Train a detector without distillation (a teacher, or a student as baseline).",
    PlainRunConfig,
    train,
    teacher_of,
)
DISTILL = Command(
    "Train a student with a teacher, by FRS, a baseline, or LD, CWD or KD (--method).",
    DistilledRunConfig,
    train,
    student_of,
)
