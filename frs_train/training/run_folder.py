"""The folder of a run: the files that training writes into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from frs_train import distributed
from frs_train.config import RunConfig
from frs_train.files import write_atomically
from frs_train.options import to_dict
from frs_train.training import checkpoint
from frs_train.training.run_files import read_result


class RunFolder:
    """Writes config.json, checkpoint-<8 digits>.pt (the newest `keep`), best.pt and, at the end, result.json.

    Only process 0 writes. `Metrics` writes metrics.jsonl, `files.locked` the file .lock.
    """

    def __init__(self, path: Path, keep: int):
        self.path, self.keep = path, keep
        self.writes = distributed.rank() == 0

    def start(self, config: RunConfig) -> None:
        """Writes config.json, and removes an old result.json: the run is not finished."""
        if self.writes:
            write_atomically(self.path / "config.json", json.dumps(to_dict(config), indent=2).encode())
            (self.path / "result.json").unlink(missing_ok=True)

    def result(self) -> dict[str, Any] | None:
        """The content of result.json, or None if there is none."""
        path = self.path / "result.json"
        return read_result(path) if path.exists() else None

    def finish(self, result: dict[str, Any]) -> None:
        """Writes result.json."""
        if self.writes:
            write_atomically(self.path / "result.json", json.dumps(result, indent=2).encode())

    def save(self, iteration: int, content: dict[str, Any]) -> None:
        """Writes the checkpoint of an iteration."""
        if self.writes:
            checkpoint.save(self.path, iteration, content, self.keep)

    def keep_as_best(self, iteration: int) -> None:
        """Copies the checkpoint of an iteration to best.pt."""
        if self.writes:
            checkpoint.keep_as_best(checkpoint.path_of(self.path, iteration))
