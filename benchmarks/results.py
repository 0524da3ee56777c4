"""The JSON of a run as objects, for tables and plots; and how two runs on one machine become one file."""

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
    """One provider on one case, by itself.

    Attributes:
        seconds: the median; of device time on a GPU.
        extra: what the suite measured beside it, see benchmarks/README.md.
    """

    case: Case
    provider: str
    seconds: float
    extra: dict


@dataclass
class Race:
    """Several providers on one case, taking turns: each one's median, quartiles and rounds."""

    case: Case
    allocator: str
    turns: dict[str, dict[str, float]]
    copy_gbps: float
    missing: dict[str, str] = field(default_factory=dict)  # provider -> why it has no turns

    def seconds(self, provider: str) -> float:
        return self.turns[provider]["median"]

    @property
    def ours(self) -> str:
        return min((name for name in FUSED if name in self.turns), key=self.seconds)

    @property
    def best_compiled(self) -> str | None:
        return min(
            (name for name in self.turns if name.startswith("compile")), key=self.seconds, default=None
        )

    def speedup(self, provider: str) -> float:
        """How many times slower than ours a provider is that took part."""
        return self.seconds(provider) / self.seconds(self.ours)

    @property
    def gbps(self) -> float:
        return self.case.bytes_moved / self.seconds(self.ours) / 1e9


class Run:
    """One committed file: a machine, and what was measured on it."""

    def __init__(self, file: Path, content: dict, root: Path = ROOT):
        self.file, self.content = file, content
        self.machine = content["machine_info"]
        self.bandwidth = content["bandwidth_gbps"]
        self.digests = content["digests"]
        now = digests(self.machine["device"], root)
        self.stale = {name: (then, now[name]) for name, then in self.digests.items() if now.get(name) != then}
        self.singles: list[Record] = []
        self.races: list[Race] = []
        self.steps: list[dict] = []
        for bench in content["benchmarks"]:
            self._sort(bench)

    @classmethod
    def read(cls, file: Path, root: Path = ROOT) -> "Run":
        return cls(file, json.loads(file.read_text()), root)

    def _sort(self, bench: dict) -> None:
        extra = bench["extra_info"]
        if not _is_described(bench):
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
        """The line under every table and plot: where its numbers come from, and whether they still hold."""
        info = self.machine
        kernels = ", ".join(f"{name} {digest}" for name, digest in self.digests.items())
        versions = f"torch {info['torch']}" + (f", CUDA {info['cuda']}" if "cuda" in info else "")
        mark = f"STALE: the sources of {', '.join(self.stale)} have changed since. " if self.stale else ""
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
        """The single records of the cases wanted, in file order: case -> provider -> record."""
        found: dict[Case, dict[str, Record]] = {}
        for record in self.singles:
            if wanted(record.case):
                found.setdefault(record.case, {})[record.provider] = record
        return found


def providers_in(rows: Iterable[Iterable[str]]) -> list[str]:
    """The providers that occur, in the suite's order."""
    present = {name for row in rows for name in row}
    return [name for name in PROVIDERS if name in present]


def may_share_a_file(one: dict, other: dict) -> bool:
    """Whether two runs measured the same kernels on the same kind of machine, with the same torch.

    A GPU's numbers do not depend on the CPU beside it, nor any on when the kernels were built.
    """

    def key(run: dict) -> tuple:
        info = run["machine_info"]
        names = ["device", "name", "torch", "cuda", "triton"]
        names += ["cores", "threads"] if info["device"] == "cpu" else []
        return run["digests"], [info.get(name) for name in names]

    return key(one) == key(other)


def _is_described(bench: dict) -> bool:
    """Whether it says what was timed; it does not if its test failed between the timing and the end."""
    return not {"case", "step"}.isdisjoint(bench["extra_info"])


def is_finished(bench: dict, size: str) -> bool:
    """Whether a benchmark need not be measured again for a size."""
    extra = bench["extra_info"]
    return (
        _is_described(bench)
        and not extra.get("unfinished")
        and SIZES.index(extra.get("size", SIZES[0])) >= SIZES.index(size)
    )


def merge(older: dict | None, newer: dict) -> dict:
    """Two runs that may share a file as one. The newer numbers count, unless a larger size made the older."""
    if older is None:
        return newer
    found = {bench["fullname"]: bench for bench in older["benchmarks"]}
    for bench in newer["benchmarks"]:
        name = bench["fullname"]
        older_size = found[name]["extra_info"].get("size", SIZES[0]) if name in found else SIZES[0]
        if name not in found or is_finished(bench, older_size) or not is_finished(found[name], SIZES[0]):
            found[name] = bench
    return {
        **newer,
        "size": max(older["size"], newer["size"], key=SIZES.index),
        "bandwidth_gbps": newer["bandwidth_gbps"] or older["bandwidth_gbps"],
        "benchmarks": list(found.values()),
    }
