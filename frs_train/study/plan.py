"""The runs of a study: their folders and configurations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frs_train.config import RunConfig
from frs_train.errors import UserError
from frs_train.options import from_dict
from frs_train.study.file import DataSet, OptionValues, Pictures, Student, Study, Teacher

# One thread for each run: results then do not depend on how many runs share the machine.
SHARED = {"data": {"workers": 0}, "train": {"threads": 1, "keep": 1}}


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study."""

    name: str
    """Its folder below that of the study."""
    config: RunConfig
    final: bool = True
    """False for a run that only helps to choose weights."""


class Plan:
    """The runs of a study in a folder.

    Raises:
        UserError: an option of the file is out of its range; the message names its table.
    """

    def __init__(self, study: Study, out: Path):
        self.study, self.out = study, out
        self.teachers()  # every configuration once: errors come before the first run
        for name, arm in itertools.product(study.data, study.arms):
            for number in range(len(study.arms[arm].candidates) or 1):
                self.student(name, arm, study.seeds[0], number)
            for runs in self.tuning_of(name, arm):
                self._refuse_reported_images(name, runs[0])

    def teachers(self) -> list[PlannedRun]:
        """The teachers that are trained: one for each data set without a checkpoint."""
        return [self._teacher(name) for name in self.study.data if not self.checkpoint(name)]

    def tuning(self) -> list[PlannedRun]:
        """The runs that choose weights."""
        pairs = itertools.product(self.study.data, self.study.arms)
        return [run for name, arm in pairs for runs in self.tuning_of(name, arm) for run in runs]

    def tuning_of(self, name: str, arm: str) -> Iterator[list[PlannedRun]]:
        """For each candidate of an arm on a data set, the runs that try it; none for a single candidate."""
        count = len(self.study.arms[arm].candidates)
        for number in range(count) if count > 1 else ():
            yield [self.student(name, arm, seed, number, tuning=True) for seed in self.study.tuning_seeds]

    def student(
        self, name: str, arm: str, seed: int, candidate: int = 0, *, tuning: bool = False
    ) -> PlannedRun:
        """The run of an arm on a data set with a candidate's weights, reported or tuning."""
        study, data = self.study, self.study.data[name]
        choice = study.arms[arm]
        weights = choice.candidates[candidate] if choice.candidates else {}
        folder = f"{name}/tuning/{arm}/candidate-{candidate}" if tuning else f"{name}/{arm}"
        teacher = self.checkpoint(name) or str(self.out / name / "teacher")
        distill = {"teacher": teacher, **study.student.distill, **data.student.distill}
        where = f"[arms.{arm}] on [data.{name}]"
        pictures = data.tuning if tuning else None
        config = self._config(
            f"{folder}/seed-{seed}",
            (study.student, data.student),
            self._data(name, pictures),
            where,
            seed=seed,
            distill={**distill, **choice.distill, **weights},
        )
        return PlannedRun(f"{folder}/seed-{seed}", config, final=not tuning)

    def made(self) -> list[tuple[Path, Any]]:
        """The digits data sets to make: (folder, `Digits`)."""
        parts = [(n, part) for n, data in self.study.data.items() for part in (data, data.tuning)]
        return [(self._digits_folder(name, part), part.digits) for name, part in parts if part.digits]

    def _refuse_reported_images(self, name: str, tuning: PlannedRun) -> None:
        data = self.study.data[name]
        made_alike = data.digits is not None and data.digits == data.tuning.digits
        if made_alike or _images_of(self._data(name)) == _images_of(tuning.config.data.__dict__):
            raise UserError(
                f"[data.{name}] needs other validation images to choose weights: tuning.digits, or "
                "tuning.data with another folder or val_annotations."
            )

    def _teacher(self, name: str) -> PlannedRun:
        parts = (self.study.teacher, self.study.data[name].teacher)
        where = f"[teacher] on [data.{name}]"
        return PlannedRun(f"{name}/teacher", self._config(f"{name}/teacher", parts, self._data(name), where))

    def checkpoint(self, name: str) -> str | None:
        """The trained teacher of a data set, if the file names one."""
        return self.study.data[name].teacher.checkpoint or self.study.teacher.checkpoint

    def _data(self, name: str, tuning: Pictures | None = None) -> OptionValues:
        data = self.study.data[name]
        made = tuning if tuning and tuning.digits else data
        paths = {}
        if made.digits:
            folder = self._digits_folder(name, made)
            for split in ("train", "val"):
                paths[f"{split}_annotations"] = folder / f"{split}.json"
                paths[f"{split}_images"] = folder / "images"
        return {**SHARED["data"], **data.data, **paths, **(tuning.data if tuning else {})}

    def _digits_folder(self, name: str, part: Pictures) -> Path:
        return self.out / name / ("digits" if isinstance(part, DataSet) else "digits-tuning")

    def _config(
        self,
        folder: str,
        parts: tuple[Teacher, Teacher] | tuple[Student, Student],
        data: OptionValues,
        where: str,
        *,
        seed: int | None = None,
        distill: OptionValues | None = None,
    ) -> RunConfig:
        train = {**SHARED["train"], **parts[0].train, **parts[1].train}
        if seed is not None:
            train["seed"] = seed
        values = {
            "out": self.out / folder,
            "detector": {**parts[0].detector, **parts[1].detector},
            "data": data,
            "train": train,
            "distill": distill,
            "resume": True,
        }
        try:
            return from_dict(RunConfig, values)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _images_of(data: OptionValues) -> list[str]:
    """What says which validation images a run has."""
    return [str(data.get(name)) for name in ("folder", "val_annotations", "val_images")]
