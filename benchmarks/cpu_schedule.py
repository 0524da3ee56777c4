"""Simulates the schedule of the CPU kernels on machines with many cores, and checks it on this one.

python -m benchmarks.cpu_schedule > docs/cpu-schedule.md

The tasks are those of csrc/cpu/loss_plan.cpp. What they take on one core is measured here, with data in
memory; the rest of a machine is assumed. The page, cpu_schedule.txt, says what. Run it on an idle machine.
"""

import dataclasses
from pathlib import Path

import torch

from benchmarks import bandwidth, machine, schedule_costs, sources
from benchmarks.schedule_costs import Costs, KindCost, LevelShape, Overheads
from benchmarks.schedule_model import Machine, Result, Simulation, Task
from benchmarks.workloads import WORKLOADS
from frs_kernels import _host, library

TEXT = Path(__file__).with_name("cpu_schedule.txt")
CALLS = [("retinanet-800x1344", 1), ("retinanet-800x1344", 16), ("yolo26s-640", 1), ("yolo26s-640", 16)]
VALIDATED = [CALLS[0], CALLS[3]]
PER_SUM = 5e-9  # seconds to add a partial sum: a double addition, and cache lines of other cores

MACHINES = {
    machine.name: machine
    for machine in (
        Machine("desktop", 8, 50, 40e-9, lambda threads: 3e-6, shared_cache=32 << 20),
        Machine("one socket", 64, 460, 100e-9, lambda threads: 1e-6 + 0.1e-6 * threads),
        Machine("two sockets", 192, 920, 250e-9, lambda threads: 1e-6 + 0.1e-6 * threads, 0, 0.5, 1.6, 400),
    )
}
SPENT = ("memory", "masks", "the end", "counter", "serial", "short rows")


class Call:
    """A call of the loss with gradients, in float32."""

    def __init__(self, workload: str, batch: int, channels_last: bool, costs: "Measured"):
        shapes = WORKLOADS[workload]
        self.levels: list[LevelShape] = [
            (batch, features, shapes.logit_channels, h * w)
            for (h, w), features in zip(shapes.sizes, shapes.feat_channels, strict=True)
        ]
        self.name = f"{workload}, B = {batch}"
        self.channels_last = channels_last
        self.overheads = costs.overheads
        self.costs = Costs(self.levels, channels_last, costs.kinds(shapes.logit_channels, channels_last))

    def on(self, target: Machine, threads: int) -> Result:
        """The simulated call. Its seconds have parts that no thread shares, for all threads."""
        plan = (self.levels, "mask_first", self.channels_last, threads)
        tasks = [Task(*values) for values in _host.loss_tasks(*plan)]
        count, runs, segments = _host.loss_plan_sizes(*plan)
        result = Simulation(tasks, lambda t: self.costs.of(t, target.shared_cache), target, threads).run()
        serial = self.overheads.call + count * self.overheads.per_task + (runs + segments) * PER_SUM
        serial += target.region(threads) if threads > 1 else 0
        result.seconds += serial
        result.spent["serial"] = serial * threads
        return result


class Measured:
    """What is measured on this machine."""

    def __init__(self):
        torch.set_num_threads(1)
        flush = bandwidth.flusher("cpu")
        self.overheads: Overheads = schedule_costs.overheads()
        self.table: dict[tuple[str, int, bool], KindCost] = {}
        for channels_last in (False, True):
            for kind, channels in (
                ("mask", 720),
                ("head", 720),
                ("mask", 80),
                ("head", 80),
                ("imitation", 256),
            ):
                cost = schedule_costs.kind_cost(kind, channels, channels_last, flush)
                self.table[kind, channels, channels_last] = cost
        self.copy = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            self.copy.append(bandwidth.Copier("cpu").best)

    def kinds(self, logits: int, channels_last: bool) -> dict[str, KindCost]:
        columns = {"mask": logits, "head": logits, "imitation": 256}
        return {kind: self.table[kind, channels, channels_last] for kind, channels in columns.items()}


def calls(measured: Measured, names=CALLS) -> list[Call]:
    return [Call(*name, channels_last, measured) for name in names for channels_last in (False, True)]


def layout(call: Call) -> str:
    return "channels_last" if call.channels_last else "NCHW"


def results(measured: Measured, target: Machine):
    """Rows of the table of one machine."""
    yield f"| {target.name} | threads | time | speedup | efficiency | {' | '.join(SPENT)} | limited by |"
    yield "|---" * (6 + len(SPENT)) + "|"
    for call in calls(measured):
        alone = call.on(target, 1)
        for threads in (n for n in (1, 2, 8, 64, 192) if n <= target.cores):
            result = call.on(target, threads)
            speedup = alone.seconds / result.seconds
            result.spent["short rows"] = result.spent["cores"] - alone.spent["cores"]
            lost = {name: max(0.0, result.spent[name]) / threads / result.seconds for name in SPENT}
            limit = max(lost, key=lost.__getitem__) if speedup < 0.85 * threads else "cores"
            name = f"{call.name}, {layout(call)}" if threads == 1 else ""
            cells = (
                name,
                threads,
                f"{1e3 * result.seconds:.2f} ms",
                f"{speedup:.1f}",
                f"{speedup / threads:.0%}",
            )
            shares = (f"{share:.0%}" for share in lost.values())
            yield f"| {' | '.join(map(str, (*cells, *shares, limit)))} |"


def placements(measured: Measured):
    """Rows of the table of where the memory of two sockets is."""
    both = MACHINES["two sockets"]
    cases = {
        "all local": dataclasses.replace(both, remote=0.0),
        "gradients new, local; inputs half remote": dataclasses.replace(both, remote=0.3),
        "half remote (the table above)": both,
        "all on one socket": dataclasses.replace(both, bandwidth=both.bandwidth / 2),
    }
    chosen = calls(measured, CALLS[:2])
    yield f"| placement | {' | '.join(f'{call.name}, {layout(call)}' for call in chosen)} |"
    yield "|---" * (1 + len(chosen)) + "|"
    for name, target in cases.items():
        times = (f"{1e3 * call.on(target, both.cores).seconds:.2f} ms" for call in chosen)
        yield f"| {name} | {' | '.join(times)} |"


def validation(measured: Measured):
    """Rows of the table that compares the simulation with this machine."""
    here = Machine("here", 2, measured.copy[1], measured.overheads.counter_of_two, lambda threads: 3e-6)
    yield "| simulated, measured | 1 thread | | 2 threads | | speedup | |"
    yield "|---" * 7 + "|"
    for call in calls(measured, VALIDATED):
        simulated = [call.on(here, n).seconds for n in (1, 2)]
        real = schedule_costs.call_seconds(call.levels, call.channels_last, [1, 2])
        pairs = [f"{1e3 * seconds:.2f} ms" for pair in zip(simulated, real, strict=True) for seconds in pair]
        speedups = [f"{one / two:.2f}" for one, two in (simulated, real)]
        yield f"| {call.name}, {layout(call)} | {' | '.join([*pairs, *speedups])} |"


def oversubscribed(measured: Measured):
    """Rows of the table of calls with more threads than this machine has cores."""
    counts = [2, 8, 64, 192]
    yield f"| | {' | '.join(f'{n} threads' for n in counts)} |"
    yield "|---" * (1 + len(counts)) + "|"
    for call in calls(measured, VALIDATED):
        real = schedule_costs.call_seconds(call.levels, call.channels_last, counts)
        yield f"| {call.name}, {layout(call)} | {' | '.join(f'{1e3 * seconds:.2f} ms' for seconds in real)} |"


def measured_costs(measured: Measured):
    """Rows of the table of costs per element."""
    yield "| | long rows | short rows | channels_last | bytes |"
    yield "|---" * 5 + "|"
    for (kind, channels, channels_last), cost in measured.table.items():
        if not channels_last:
            last = measured.table[kind, channels, True].long
            times = " | ".join(f"{1e9 * seconds:.2f} ns" for seconds in (cost.long, cost.short, last))
            yield f"| {kind}, {channels} channels | {times} | {schedule_costs.BYTES[kind]} |"


def assumed():
    """Rows of the table of the machines."""
    yield "| | cores | memory | counter | region, all threads | shared cache | remote | penalty | link |"
    yield "|---" * 9 + "|"
    for m in MACHINES.values():
        cache = f"{m.shared_cache >> 20} MB" if m.shared_cache else "none"
        link = f"{m.link:.0f} GB/s" if m.remote else ""
        numbers = (
            f"{m.cores} | {m.bandwidth} GB/s | {1e9 * m.counter:.0f} ns | {1e6 * m.region(m.cores):.0f} us"
        )
        yield f"| {m.name} | {numbers} | {cache} | {m.remote:.0%} | {m.penalty:.1f} | {link} |"


def main() -> None:
    reason = library.load_native("cpu")
    assert reason is None, reason
    info, measured = machine.describe("cpu"), Measured()
    about = f"{info['cpu']}, {info['cores']} cores, torch {info['torch']}"
    overheads = measured.overheads
    parts = {
        "machine": f"{about}, kernel sources {sources.digests('cpu')['native-cpu']}",
        "call": f"{1e6 * overheads.call:.0f} us", "per_task": f"{1e9 * overheads.per_task:.0f} ns",
        "counter": f"{1e9 * overheads.counter:.1f} ns", "of_two": f"{1e9 * overheads.counter_of_two:.1f} ns",
        "copy": " and ".join(f"{rate:.0f}" for rate in measured.copy), "per_sum": f"{1e9 * PER_SUM:.0f} ns",
    }  # fmt: skip
    tables = {
        "costs": measured_costs(measured),
        "machines": assumed(),
        "validation": validation(measured),
        "desktop": results(measured, MACHINES["desktop"]),
        "socket": results(measured, MACHINES["one socket"]),
        "sockets": results(measured, MACHINES["two sockets"]),
        "placements": placements(measured),
        "oversubscribed": oversubscribed(measured),
    }
    text = TEXT.read_text()
    print(text.format(**parts, **{name: "\n".join(rows) for name, rows in tables.items()}), end="")


if __name__ == "__main__":
    main()
