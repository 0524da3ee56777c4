"""What the simulation of benchmarks/cpu_schedule.py takes from this machine: times of the CPU kernels."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks import bandwidth
from benchmarks.cpu_calls import SCALARS
from benchmarks.schedule_model import Cost, Task
from benchmarks.timers import clock, timed
from frs_kernels import _host

ROUNDS = 7
ROW = 16800  # locations of a row: RetinaNet's largest level, and no power of two, whose rows evict each other
SEGMENT, RUN = 1024, 256  # csrc/cpu/isa.h: the shortest tiles of NCHW rows in the loss pass and the mask pass
# Bytes of an element that a task reads and writes in float32. Gradients are written past the caches.
BYTES = {"mask": 4, "head": 12, "imitation": 12}

LevelShape = tuple[int, int, int, int]  # batch, features, logits, locations


def median_seconds(run: Callable, before: Callable = lambda: None, rounds: int = ROUNDS) -> float:
    times = []
    for _ in range(rounds + 1):
        before()
        times.append(timed(clock("cpu"), run))
    return statistics.median(times[1:])


def random(batch: int, channels: int, locations: int, channels_last: bool) -> torch.Tensor:
    """[B, C, L] in a layout."""
    if channels_last:
        return torch.randn(batch, locations, channels).transpose(1, 2)
    return torch.randn(batch, channels, locations)


@dataclass(frozen=True)
class KindCost:
    """Seconds per element of one kind of task: with long rows, and what a row of `step` locations adds."""

    long: float
    short: float
    step: int

    def of(self, locations: int) -> float:
        return self.long + (self.short - self.long) * self.step / max(locations, self.step)


def kind_cost(kind: str, channels: int, channels_last: bool, flush: Callable) -> KindCost:
    """Measured with one thread and all data in memory, not in a cache."""

    def per_element(batch: int, locations: int, count: int) -> float:
        rows = [random(batch, channels, ROW, channels_last) for _ in range(2)]
        teachers, students = (row.split(locations, dim=2)[:count] for row in rows)
        masks = [torch.rand(batch, t.shape[2]) for t in teachers]
        operators = torch.ops.frs_kernels

        def run():
            if kind == "mask":
                return operators.mask(teachers)
            no, pair = ([], []), (students, teachers)
            tensors = (*no, *pair) if kind == "head" else (*pair, *no)
            return operators.loss(*tensors, masks, [], *SCALARS, kind == "imitation", kind == "head", False)

        return median_seconds(run, flush) / sum(t.numel() for t in teachers)

    batch = max(1, round(720 / channels))  # tensors of one size
    step = RUN if kind == "mask" else SEGMENT
    long = per_element(batch, ROW, 1)
    return KindCost(long, long if channels_last else per_element(batch * SEGMENT // step, step, 16), step)


class Costs:
    """What the tasks of a call take when they run alone on a core of this machine."""

    def __init__(self, levels: list[LevelShape], channels_last: bool, kinds: dict[str, KindCost]):
        self.levels, self.channels_last, self.kinds = levels, channels_last, kinds

    def of(self, task: Task, shared_cache: int = 0) -> Cost:
        """`shared_cache` bytes keep the end of the level's T from the mask pass to the head's loss pass."""
        cost = self.kinds[task.kind]
        seconds = task.elements * (cost.long if self.channels_last else cost.of(task.locations))
        traffic = float(task.elements * BYTES[task.kind])
        if task.kind == "head":
            batch, _, logits, locations = self.levels[task.level]
            cached = min(1.0, shared_cache / 2 / (4 * batch * logits * locations))
            traffic -= cached * 4 * task.elements
        return Cost(seconds, traffic)


@dataclass(frozen=True)
class Overheads:
    """Seconds outside of the tasks of a call."""

    call: float  # of the operator, with one thread and hardly any elements
    per_task: float  # to list a task
    counter: float  # an increment by one thread
    counter_of_two: float  # by two threads that want nothing else


def overheads() -> Overheads:
    tiny = [torch.randn(1, 1, 1, 1) for _ in range(5)]
    arguments = (tiny, tiny, tiny, tiny, [], [], *SCALARS, True, True, False)
    levels, mode = [(16, 256, 720, 16800)], ("mask_first", True, 64)
    tasks = _host.loss_plan_sizes(levels, *mode)[0]
    increments = 1_000_000
    counters = [median_seconds(lambda n=n: _host.run_empty_tasks(increments, n)) / increments for n in (1, 2)]
    call = median_seconds(lambda: torch.ops.frs_kernels.loss(*arguments), rounds=200)
    return Overheads(call, median_seconds(lambda: _host.loss_plan_sizes(levels, *mode)) / tasks, *counters)


def call_seconds(levels: list[LevelShape], channels_last: bool, threads: list[int]) -> list[float]:
    """Median seconds of the operator with gradients by numbers of threads, in alternating turns."""
    before, flush = torch.get_num_threads(), bandwidth.flusher("cpu")
    make = [random(b, c, n, channels_last) for b, d, k, n in levels for c in (d, d, k, k)]
    tensors = [make[i::4] for i in range(4)]
    times: list[list[float]] = [[] for _ in threads]
    for _ in range(ROUNDS + 1):
        for count, row in zip(threads, times, strict=True):
            torch.set_num_threads(count)
            flush()
            run = lambda: torch.ops.frs_kernels.loss(*tensors, [], [], *SCALARS, True, True, False)  # noqa: E731
            row.append(timed(clock("cpu"), run))
    torch.set_num_threads(before)
    return [statistics.median(row[1:]) for row in times]
