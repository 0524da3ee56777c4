"""Reads the JSON of a run into objects for tables and plots, and merges two runs on one machine."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.providers import FUSED, PROVIDERS
from benchmarks.selection import SIZES
from benchmarks.sources import ROOT, digests
from benchmarks.workloads import Case


@dataclass
class Record:
    """The measurement of one provider on one case.

    Attributes:
        seconds: median time; on a GPU, device time.
        extra: the other measurements, see "What the JSON holds" in benchmarks/README.md.
    """

    case: Case
    provider: str
    seconds: float
    extra: dict


@dataclass
class Race:
    """The measurement of several providers that take turns on one case.

    Attributes:
        turns: for each provider that finished, the median, the quartiles and the minimum of its times in
            seconds, and their number.
        missing: for each provider that did not, the reason.
    """

    case: Case
    allocator: str
    turns: dict[str, dict[str, float]]
    copy_gbps: float
    missing: dict[str, str] = field(default_factory=dict)

    def seconds(self, provider: str) -> float:
        return self.turns[provider]["median"]

    @property
    def ours(self) -> str:
        """The faster one of the fused backends."""
        return min((name for name in FUSED if name in self.turns), key=self.seconds)

    @property
    def best_compiled(self) -> str | None:
        return min(
            (name for name in self.turns if name.startswith("compile")), key=self.seconds, default=None
        )

    def speedup(self, provider: str) -> float:
        """The time of a provider, divided by ours."""
        return self.seconds(provider) / self.seconds(self.ours)

    @property
    def gbps(self) -> float:
        return self.case.bytes_moved / self.seconds(self.ours) / 1e9


class Run:
    """One results file: a machine and what was measured on it.

    Attributes:
        digests: of the kernel sources that were measured, by provider.
        stale: (measured digest, present digest) of the providers whose sources have changed since.
        singles, races, steps: the benchmarks, by kind.
    """

    def __init__(self, file: Path, content: dict, root: Path = ROOT):
        self.file, self.content = file, content
        self.machine = content["machine_info"]
        self.bandwidth = content["bandwidth_gbps"]
        self.digests = content["digests"]
        present = digests(self.machine["device"], root)
        self.stale = {
            name: (measured, present[name])
            for name, measured in self.digests.items()
            if present[name] != measured
        }
        self.singles: list[Record] = []
        self.races: list[Race] = []
        self.steps: list[dict] = []
        for bench in content["benchmarks"]:
            self._add(bench)

    @classmethod
    def read(cls, file: Path, root: Path = ROOT) -> "Run":
        return cls(file, json.loads(file.read_text()), root)

    def _add(self, bench: dict) -> None:
        extra = bench["extra_info"]
        if not _is_complete(bench):
            return
        if "step" in extra:
            self.steps.append(extra)
        elif "turns" in extra:
            case = Case(**extra["case"])
            self.races.append(
                Race(case, extra["allocator"], extra["turns"], extra["copy_gbps"], extra.get("missing", {}))
            )
        else:
            record = Record(Case(**extra["case"]), extra["provider"], bench["stats"]["median"], extra)
            self.singles.append(record)

    @property
    def source(self) -> str:
        """The line under every table and plot: where its numbers come from, and whether they are stale."""
        info = self.machine
        kernels = ", ".join(f"{name} {digest}" for name, digest in self.digests.items())
        versions = f"torch {info['torch']}" + (f", CUDA {info['cuda']}" if "cuda" in info else "")
        mark = f"STALE: the sources of {' and '.join(self.stale)} have changed. " if self.stale else ""
        return f"{mark}{self.file.name}: {info['name']}, {versions}, kernel sources {kernels}"

    @property
    def uncommitted(self) -> str | None:
        """Which kernel sources no commit holds as they were measured, in words, or None."""
        changed = self.content["commit_info"].get("uncommitted_kernels")
        build = self.machine["build"].get("commit") or ""
        if changed is None and build.endswith("-dirty"):
            return f"the tree that was built, {build}"
        return ", ".join(changed or []) or None

    def cases(self, wanted: Callable[[Case], bool]) -> dict[Case, dict[str, Record]]:
        """The records of the cases wanted, by case and provider, in the order of the file."""
        records: dict[Case, dict[str, Record]] = {}
        for record in self.singles:
            if wanted(record.case):
                records.setdefault(record.case, {})[record.provider] = record
        return records


def providers_in(rows: Iterable[Iterable[str]]) -> list[str]:
    """The providers that occur in the rows, in the order of PROVIDERS."""
    present = {name for row in rows for name in row}
    return [name for name in PROVIDERS if name in present]


def may_share_a_file(one: dict, other: dict) -> bool:
    """Whether two runs measured the same kernels on the same kind of machine with the same torch.

    The host's CPU makes no difference to a GPU's results, nor does the time of the build to any.
    """

    def key(run: dict) -> tuple:
        info = run["machine_info"]
        names = ["device", "name", "torch", "cuda", "triton"]
        names += ["cores", "threads"] if info["device"] == "cpu" else []
        return run["digests"], [info.get(name) for name in names]

    return key(one) == key(other)


def _is_complete(bench: dict) -> bool:
    """False for a benchmark whose test failed after the timing: it does not say what was timed."""
    return not {"case", "step"}.isdisjoint(bench["extra_info"])


def is_finished(bench: dict, size: str) -> bool:
    """Whether a benchmark has all that a run of a size measures, so that the run can leave it out."""
    extra = bench["extra_info"]
    return (
        _is_complete(bench)
        and not extra.get("unfinished")
        and SIZES.index(extra.get("size", SIZES[0])) >= SIZES.index(size)
    )


def merge(older: dict | None, newer: dict) -> dict:
    """One run of two that may share a file.

    Of a benchmark in both the newer one stays, unless the older one is of a larger size or alone is finished.
    """
    if older is None:
        return newer
    merged = {bench["fullname"]: bench for bench in older["benchmarks"]}
    for bench in newer["benchmarks"]:
        name = bench["fullname"]
        older_size = merged[name]["extra_info"].get("size", SIZES[0]) if name in merged else SIZES[0]
        if name not in merged or is_finished(bench, older_size) or not is_finished(merged[name], SIZES[0]):
            merged[name] = bench
    return {
        **newer,
        "size": max(older["size"], newer["size"], key=SIZES.index),
        "bandwidth_gbps": newer["bandwidth_gbps"] or older["bandwidth_gbps"],
        "benchmarks": list(merged.values()),
    }
