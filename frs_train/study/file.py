"""The study file: a TOML file that names data sets, a teacher and a student, arms and seeds.

    seeds = [1, 2, 3]                          # one run of each arm on each data set for each seed
    tuning_seeds = [101]                       # the seeds with which an arm's weights are chosen
    baselines = ["none"]                       # arms that the others are compared with

    [teacher]                                  # options as in the config.json of a run, in its tables
    detector = { backbone = "resnet18" }       # or: checkpoint = "runs/teacher"
    train = { iterations = 2000 }

    [student]
    detector = { backbone = "resnet10" }
    train = { iterations = 500 }
    distill = { warmup_iters = 100 }

    [data.digits]                              # `teacher` and `student` here override those above
    digits = { train = 1600, val = 300, size = 96, seed = 0 }
    tuning.digits = { train = 1600, val = 300, size = 96, seed = 7 }

    [data.cells]
    data = { train_annotations = "...", train_images = "...", val_annotations = "...", val_images = "..." }
    tuning.data = { val_annotations = "..." }  # overrides the line above where weights are chosen

    [arms.none]
    distill = { method = "none" }

    [arms.frs]
    distill = { method = "frs" }
    candidates = [{ feat_weight = 0.001, head_weight = 0.1 }, { feat_weight = 0.01, head_weight = 0.1 }]

Paths are relative to the folder in which the command runs.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from frs_train.config import Images, Seed
from frs_train.errors import UserError
from frs_train.options import Options, from_dict, several, whole

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
OptionValues = dict[str, Any]


@dataclass(frozen=True)
class Teacher(Options):
    """Options of the teacher; the dictionaries are tables of a run's configuration."""

    detector: OptionValues = field(default_factory=dict)
    train: OptionValues = field(default_factory=dict)
    checkpoint: str | None = None
    """Run folder or checkpoint of a trained teacher; without it, the study trains one for each data set."""


@dataclass(frozen=True)
class Student(Options):
    """Options of the student; each dictionary is a table of a run's configuration."""

    detector: OptionValues = field(default_factory=dict)
    train: OptionValues = field(default_factory=dict)
    distill: OptionValues = field(default_factory=dict)
    """Options that all arms share."""


@dataclass(frozen=True)
class Digits(Options):
    """A digits data set that the study makes."""

    train: Images
    val: Images
    size: whole(32, 4096) = 128
    seed: Seed = 0
    scenes: Literal["dense", "sparse"] = "dense"


@dataclass(frozen=True)
class Pictures(Options):
    """Training and validation images: a data set that is made, options of `DataConfig`, or both."""

    digits: Digits | None = None
    data: OptionValues = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet(Pictures):
    """A data set of the study."""

    tuning: Pictures = field(default_factory=Pictures)
    """Other images than those reported, with which the weights are chosen."""
    teacher: Teacher = field(default_factory=Teacher)
    student: Student = field(default_factory=Student)


@dataclass(frozen=True)
class Arm(Options):
    """A way to train the student."""

    distill: OptionValues = field(default_factory=dict)
    candidates: list[OptionValues] = field(default_factory=list)
    """Overrides of `distill`, of which the best on the tuning images is taken."""


@dataclass(frozen=True)
class Study(Options):
    """The content of a study file."""

    seeds: several(Seed, 1)
    data: dict[str, DataSet]
    arms: dict[str, Arm]
    teacher: Teacher = field(default_factory=Teacher)
    student: Student = field(default_factory=Student)
    tuning_seeds: several(Seed, 1) = (101,)
    baselines: tuple[str, ...] = ("none",)

    def check(self) -> None:
        for kind, names in (("data", self.data), ("arms", self.arms)):
            if not names:
                raise UserError(f"The study has no [{kind}.NAME]: there is nothing to compare.")
            wrong = next((name for name in names if not NAME.fullmatch(name)), None)
            if wrong is not None:
                raise UserError(f"[{kind}.{wrong}] must have a name of letters, digits, '.', '_' and '-'.")
        unknown = [name for name in self.baselines if name not in self.arms]
        if unknown:
            raise UserError(f"baselines names {unknown[0]!r}, which is no arm. Arms: {', '.join(self.arms)}.")
        for seeds, name in ((self.seeds, "seeds"), (self.tuning_seeds, "tuning_seeds")):
            if len(set(seeds)) < len(seeds):
                raise UserError(f"{name} has a seed twice: {list(seeds)}.")
        if set(self.seeds) & set(self.tuning_seeds):
            raise UserError("seeds and tuning_seeds must differ: weights are chosen on other runs.")
        self._check_candidates()

    def _check_candidates(self) -> None:
        counts = {
            name: len(arm.candidates)
            for name, arm in self.arms.items()
            if arm.distill.get("method") != "none" or arm.candidates
        }
        if len(set(counts.values())) > 1:
            text = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise UserError(
                f"Every arm needs as many candidates as the others, or the comparison is unfair: {text}."
            )


def read_study(path: Path) -> Study:
    """The study of a file. Raises `UserError` naming the file and what is wrong in it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Study file {path} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"Study file {path} is not TOML: {error}.") from None
    try:
        return from_dict(Study, content)
    except UserError as error:
        raise UserError(f"Study file {path}: {error}") from None
