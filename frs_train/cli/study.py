"""The command `study`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frs_train.cli.command import Command, Positional
from frs_train.config import Processes
from frs_train.options import Options

if TYPE_CHECKING:
    from frs_train.log import Log


@dataclass(frozen=True)
class StudyConfig(Options):
    """Options of `study`."""

    file: Positional[Path]
    """Study file (TOML): data sets, detectors, arms, seeds; see docs/studies.md."""
    out: Path
    """Folder for all runs and the results; the same command continues a study that was stopped."""
    jobs: Processes = 0
    """Runs side by side; 0 is one for each CPU core, or a single one on a GPU."""


def study(config: StudyConfig, log: Log) -> None:
    from frs_train.study.conduct import conduct
    from frs_train.study.file import read_study
    from frs_train.study.tables import verdicts

    outcome = conduct(read_study(config.file), config.out, config.jobs, log)
    for line in verdicts(outcome):
        log.say(line)
    log.say(f"Wrote study.html, study.md, study.png and study.json to {config.out}.")


STUDY = Command(
    "Train every arm of a study file with every seed, several runs side by side, and compare them by seed.",
    StudyConfig,
    study,
)
