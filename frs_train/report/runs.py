"""The runs of a report, read from their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frs_train.errors import UserError
from frs_train.training.run_files import read_config, read_metrics, read_result

COLOURS = ("#1f77b4", "#d95f02", "#2a9d57", "#c23b6b", "#7b5ea7", "#8c6d31", "#17becf", "#555555")


@dataclass(frozen=True)
class Run:
    """The content of a run folder."""

    name: str
    folder: Path
    colour: str
    config: dict[str, Any]
    train: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    result: dict[str, Any]
    """The content of result.json, or the last evaluation if the run is unfinished."""

    @property
    def finished(self) -> bool:
        return "parameters" in self.result


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs of these folders. A run is named by its folder, or by the path if two folders share a name."""
    names = [folder.resolve().name for folder in folders]
    runs = []
    for number, folder in enumerate(folders):
        name = names[number] if names.count(names[number]) == 1 else str(folder)
        runs.append(read_run(folder, name, COLOURS[number % len(COLOURS)]))
    return runs


def read_run(folder: Path, name: str, colour: str) -> Run:
    """The run of one folder. Raises `UserError` if it is not a run folder or one of its files is damaged."""
    for file in ("config.json", "metrics.jsonl"):
        if not (folder / file).is_file():
            raise UserError(
                f"{folder} is not a run folder: it has no {file}. Give the --out folder of a training."
            )
    config, lines = read_config(folder / "config.json"), read_metrics(folder / "metrics.jsonl")
    train = [line for line in lines if line["kind"] == "train"]
    evals = [line for line in lines if line["kind"] == "eval"]
    result = folder / "result.json"
    scores = read_result(result) if result.exists() else (evals[-1] if evals else {})
    return Run(name, folder, colour, config, train, evals, scores)
