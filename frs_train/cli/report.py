"""The command `report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frs_train.cli.command import Command, Positional
from frs_train.config import Count
from frs_train.errors import UserError
from frs_train.options import Options

if TYPE_CHECKING:
    from frs_train.log import Log


@dataclass(frozen=True)
class ReportConfig(Options):
    """Options of `report`."""

    runs: Positional[tuple[Path, ...]]
    """Run folders to compare."""
    out: Path = Path("report.html")
    """HTML file to write."""
    images: Count = 2
    """Number of validation images whose masks are drawn."""

    def check(self) -> None:
        if not self.runs:
            raise UserError("RUNS is missing: give the folder of one run or more.")


def report(config: ReportConfig, log: Log) -> None:
    from frs_train.report.page import write_report

    log.say(f"Wrote {write_report(config.runs, config.out, images=config.images)}.")


REPORT = Command("Compare runs in one self-contained HTML page.", ReportConfig, report)
