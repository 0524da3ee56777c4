"""The JSON file of ``--into``, written after every benchmark so that a run can be cut off and continued."""

import json
import os
from pathlib import Path

from benchmarks import machine, sources
from benchmarks.results import is_finished, may_share_a_file, merge


class ResultFile:
    """The results of a session of pytest and of the sessions before it.

    Attributes:
        measured: names of the benchmarks that the file already holds, at this size or a larger one.
    """

    def __init__(self, config, file: Path, device: str, size: str):
        self._config, self._file = config, file
        self._machine = machine.describe(device)
        self._commit = None
        self._written = 0
        self._content = self._read({"machine_info": self._machine, "digests": sources.digests(device)})
        older = self._content["benchmarks"] if self._content else []
        self.measured = {bench["fullname"] for bench in older if is_finished(bench, size)}

    def _read(self, header: dict) -> dict | None:
        """The content of the file. A file of other kernels or another machine is renamed and kept."""
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
        if all(bench.has_error for bench in fresh):
            return
        hook, common = self._config.hook, {"config": self._config, "benchmarks": fresh}
        self._commit = self._commit or hook.pytest_benchmark_generate_commit_info(config=self._config)
        newer = hook.pytest_benchmark_generate_json(
            include_data=False, machine_info=self._machine, commit_info=self._commit, **common
        )
        hook.pytest_benchmark_update_json(output_json=newer, **common)
        self._content = merge(self._content, newer)
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(self._content, indent=1) + "\n")
        os.replace(part, self._file)
