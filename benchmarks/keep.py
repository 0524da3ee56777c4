"""Results written benchmark by benchmark: a run that is cut off keeps them, and the next one goes on."""

import json
import os
from pathlib import Path

from benchmarks import machine, sources
from benchmarks.results import is_finished, may_share_a_file, merge


class Keeper:
    """The JSON of a run while it is made.

    Attributes:
        measured: the names of the benchmarks that the file holds already, at this size or a larger one.
    """

    def __init__(self, config, file: Path, device: str, size: str):
        self._config, self._file = config, file
        self._machine = machine.describe(device)
        self._commit = None
        self._written = 0
        self._content = self._older({"machine_info": self._machine, "digests": sources.digests(device)})
        older = self._content["benchmarks"] if self._content else []
        self.measured = {bench["fullname"] for bench in older if is_finished(bench, size)}

    def _older(self, header: dict) -> dict | None:
        """What the file holds. Numbers of other kernels or machines are set aside under another name."""
        if not self._file.exists():
            return None
        content = json.loads(self._file.read_text())
        if may_share_a_file(content, header):
            return content
        when = "".join(filter(str.isdigit, content["datetime"]))[:14]
        self._file.rename(self._file.with_name(f"{self._file.stem}-{when}.json"))
        return None

    def write(self) -> None:
        """Adds what pytest-benchmark has measured since the last call."""
        measured = self._config._benchmarksession.benchmarks
        fresh, self._written = measured[self._written :], len(measured)
        if not any(not bench.has_error for bench in fresh):
            return
        hook, common = self._config.hook, {"config": self._config, "benchmarks": fresh}
        self._commit = self._commit or hook.pytest_benchmark_generate_commit_info(config=self._config)
        newer = hook.pytest_benchmark_generate_json(
            include_data=False, machine_info=self._machine, commit_info=self._commit, **common
        )
        hook.pytest_benchmark_update_json(output_json=newer, **common)
        self._content = merge(self._content, newer)
        unfinished = self._file.with_suffix(".part")
        unfinished.write_text(json.dumps(self._content, indent=1) + "\n")
        os.replace(unfinished, self._file)
