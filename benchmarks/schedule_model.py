"""An event simulation of csrc/cpu/tasks.h: threads take tasks from one counter and share the memory.

A task that runs alone takes `seconds` and moves `traffic` bytes. If all running tasks together ask for more
than the machine's bandwidth, it is shared by max-min fairness: a task gets what it asks for, unless that is
more than an equal share of what is left. Everything else stands still while it waits, as in the kernels.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Task(NamedTuple):
    """A task of _host.loss_tasks."""

    kind: str  # mask, head or imitation
    level: int
    image: int
    channel: int
    channels: int
    location: int
    locations: int
    first_sum: int

    @property
    def elements(self) -> int:
        return self.channels * self.locations


class Cost(NamedTuple):
    """What a task takes when it runs alone."""

    seconds: float
    traffic: float  # bytes to and from memory


@dataclass(frozen=True)
class Machine:
    """What is assumed of a machine.

    Attributes:
        bandwidth: GB/s of all its memory together.
        counter: seconds for which an increment keeps the counter from other threads that want it.
        region: seconds to start and end a parallel region, as a function of the threads.
        shared_cache: bytes of a cache that all threads share, in which logits survive from the mask pass.
        remote: what share of the bytes is in another socket's memory.
        penalty: how much longer a task takes alone if all of its bytes are remote.
        link: GB/s between the sockets.
    """

    name: str
    cores: int
    bandwidth: float
    counter: float
    region: Callable[[int], float] = lambda threads: 0.0
    shared_cache: int = 0
    remote: float = 0.0
    penalty: float = 1.0
    link: float = float("inf")

    @property
    def usable_bandwidth(self) -> float:
        """Bytes per second, which the link limits if too many of them are remote."""
        return 1e9 * (min(self.bandwidth, self.link / self.remote) if self.remote else self.bandwidth)


@dataclass
class Result:
    """Seconds of a call, and what the threads spent them on: seconds of all threads together."""

    threads: int
    seconds: float = 0.0
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def rates(running: Counter, bandwidth: float) -> dict[Cost, float]:
    """How fast the tasks of each cost advance, 1 being as fast as alone."""
    result, threads = {}, sum(running.values())
    for cost in sorted(running, key=lambda cost: cost.traffic / cost.seconds):
        wanted, share = cost.traffic / cost.seconds, bandwidth / threads
        result[cost] = min(1.0, share / wanted) if wanted else 1.0
        bandwidth -= running[cost] * wanted * result[cost]
        threads -= running[cost]
    return result


class Simulation:
    """One parallel region. Tasks of one cost advance equally, so each cost has a clock of its own."""

    def __init__(
        self, tasks: Sequence[Task], cost_of: Callable[[Task], Cost], machine: Machine, threads: int
    ):
        self.tasks, self.machine, self.workers = tasks, machine, min(threads, len(tasks))
        slower = 1 + machine.remote * (machine.penalty - 1)
        self.costs = [cost._replace(seconds=cost.seconds * slower) for cost in map(cost_of, tasks)]
        self.result = Result(threads)
        self.now = self.counter_free = 0.0
        self.next = 0
        self.starts: list[tuple[float, int]] = []  # (time, task) of threads that are getting a task
        self.clocks: dict[Cost, float] = defaultdict(float)
        self.ends: dict[Cost, list[tuple[float, int]]] = defaultdict(list)  # (clock, task)
        self.running: Counter[Cost] = Counter()
        self.masks_left = Counter(task.level for task in tasks if task.kind == "mask")
        self.waiting: dict[int, list[tuple[float, int]]] = defaultdict(list)  # (since, task) of a level

    def run(self) -> Result:
        finished = [0.0] * (self.result.threads - self.workers)
        for _ in range(self.workers):
            self.take()
        while self.starts or self.running:
            speed = rates(self.running, self.machine.usable_bandwidth)
            ends = {
                cost: self.now + (self.ends[cost][0][0] - self.clocks[cost]) / speed[cost] for cost in speed
            }
            first = min(ends, key=ends.__getitem__, default=None)
            if first is None or (self.starts and self.starts[0][0] <= ends[first]):
                self.advance(self.starts[0][0], speed)
                self.start(heapq.heappop(self.starts)[1])
            else:
                self.advance(ends[first], speed)
                self.end(first, finished)
        self.result.seconds = self.now
        self.result.spent["the end"] += sum(self.now - time for time in finished)
        return self.result

    def advance(self, time: float, speed: dict[Cost, float]) -> None:
        elapsed, self.now = time - self.now, time
        for cost, count in self.running.items():
            self.clocks[cost] += elapsed * speed[cost]
            self.result.spent["cores"] += count * elapsed * speed[cost]
            self.result.spent["memory"] += count * elapsed * (1 - speed[cost])

    def take(self) -> bool:
        """A thread takes the next task; false if there is none."""
        if self.next == len(self.tasks):
            return False
        self.counter_free = max(self.now, self.counter_free) + self.machine.counter
        self.result.spent["counter"] += self.counter_free - self.now
        heapq.heappush(self.starts, (self.counter_free, self.next))
        self.next += 1
        return True

    def start(self, index: int) -> None:
        task, cost = self.tasks[index], self.costs[index]
        if task.kind != "mask" and self.masks_left[task.level]:
            self.waiting[task.level].append((self.now, index))
            return
        self.running[cost] += 1
        heapq.heappush(self.ends[cost], (self.clocks[cost] + cost.seconds, index))

    def end(self, cost: Cost, finished: list[float]) -> None:
        task = self.tasks[heapq.heappop(self.ends[cost])[1]]
        self.running[cost] -= 1
        if not self.running[cost]:
            del self.running[cost]
        if task.kind == "mask":
            self.masks_left[task.level] -= 1
            if not self.masks_left[task.level]:
                for since, index in self.waiting.pop(task.level, []):
                    self.result.spent["masks"] += self.now - since
                    self.start(index)
        if not self.take():
            finished.append(self.now)
