"""The simulation of the CPU kernels' schedule (benchmarks/cpu_schedule.py)."""

import pytest

from benchmarks.schedule_model import Cost, Machine, Simulation, Task

pytest.importorskip("frs_kernels._host", reason="_host is not built")
from benchmarks import cpu_schedule, schedule_costs
from frs_kernels.library import load_native


def tasks(*kinds, level=0):
    return [Task(kind, level, 0, 0, 1, 0, 1, 0) for kind in kinds]


def simulated(kinds, threads, bandwidth=1.0, counter=0.0, seconds=2.0, traffic=0.0, **machine):
    target = Machine("m", threads, bandwidth, counter, **machine)
    return Simulation(tasks(*kinds), lambda task: Cost(seconds, traffic), target, threads).run()


def test_tasks_without_traffic_are_divided_among_the_threads():
    assert simulated(["mask"] * 6, 1).seconds == pytest.approx(12)
    result = simulated(["mask"] * 6, 4)  # two threads have a second task, the others have none
    assert result.seconds == pytest.approx(4)
    assert result.spent["cores"] == pytest.approx(12) and result.spent["the end"] == pytest.approx(4)


def test_tasks_share_the_bandwidth():
    """Each asks for 1 GB/s: at 1.5 GB/s two threads are a third slower, at half a GB/s one is too."""
    result = simulated(["mask"] * 2, 2, bandwidth=1.5, traffic=2e9)
    assert result.seconds == pytest.approx(2 / 0.75)
    assert result.spent["memory"] == pytest.approx(2 * (2 / 0.75 - 2))
    assert simulated(["mask"], 1, bandwidth=0.5, traffic=2e9).seconds == pytest.approx(4)


def test_a_task_that_asks_for_little_is_not_slowed():
    costs = {"mask": Cost(2.0, 0.5e9), "head": Cost(2.0, 4e9)}
    kinds = [*tasks("mask"), *tasks("head", level=1)]  # a level without a mask pass has nothing to wait for
    result = Simulation(kinds, lambda task: costs[task.kind], Machine("m", 2, 1.25, 0.0), 2).run()
    assert result.seconds == pytest.approx(2 + (4 - 2 * 1.0) / 1.25)  # 1 GB/s beside the mask, then all


def test_the_loss_pass_waits_for_the_mask():
    result = simulated(["mask", "head", "head"], 3)
    assert result.seconds == pytest.approx(4)
    assert result.spent["masks"] == pytest.approx(4) and result.spent["the end"] == pytest.approx(2)


def test_threads_queue_for_the_counter():
    result = simulated(["mask"] * 4, 4, counter=1.0)
    assert result.seconds == pytest.approx(4 + 2)
    assert result.spent["counter"] == pytest.approx(1 + 2 + 3 + 4)


def test_remote_memory_is_slower_and_limited_by_the_link():
    assert simulated(["mask"], 1, remote=0.5, penalty=1.6).seconds == pytest.approx(2 * 1.3)
    assert simulated(["mask"], 1, 4.0, traffic=4e9, remote=0.5, link=0.5).seconds == pytest.approx(4)


def test_all_time_of_all_threads_is_accounted_for():
    result = simulated(["mask"] * 5 + ["head"] * 20, 7, bandwidth=4.0, counter=0.1, traffic=2e9)
    assert sum(result.spent.values()) == pytest.approx(7 * result.seconds)


def test_costs_are_positive_and_short_rows_have_their_own(monkeypatch):
    if load_native("cpu") is not None:
        pytest.skip("the CPU kernels are not built")
    monkeypatch.setattr(schedule_costs, "ROUNDS", 1)
    monkeypatch.setattr(schedule_costs, "ROW", 4096)
    for kind, channels_last in (("mask", True), ("head", False), ("imitation", True)):
        cost = schedule_costs.kind_cost(kind, 9, channels_last, lambda: None)
        assert cost.long > 0 and (cost.short == cost.long) == channels_last
        assert cost.of(cost.step) == cost.of(1) == cost.short
    assert all(0 < seconds < 1 for seconds in schedule_costs.call_seconds([(1, 2, 3, 40)], False, [1, 2]))


class Assumed(cpu_schedule.Measured):
    """Costs that are not measured."""

    def __init__(self):
        self.overheads = schedule_costs.Overheads(30e-6, 10e-9, 2e-9, 6e-9)
        self.copy = [20.0, 30.0]
        self.table = {
            (kind, channels, channels_last): schedule_costs.KindCost(0.5e-9, 0.6e-9, 1024)
            for kind in ("mask", "head", "imitation")
            for channels in (80, 256, 720)
            for channels_last in (False, True)
        }


def test_the_tables_have_a_cell_in_every_column():
    costs = Assumed()
    both = cpu_schedule.MACHINES["two sockets"]
    for table in (cpu_schedule.results(costs, both), cpu_schedule.placements(costs), cpu_schedule.assumed()):
        rows = list(table)
        assert len(rows) > 4 and {row.count("|") for row in rows} == {rows[0].count("|")}


def test_more_threads_are_faster_until_something_is_saturated():
    call = cpu_schedule.Call("retinanet-800x1344", 16, False, Assumed())
    seconds = [call.on(cpu_schedule.MACHINES["one socket"], threads).seconds for threads in (1, 2, 8, 64)]
    assert seconds == sorted(seconds, reverse=True)
    moved = sum(4 * (4 * k + 3 * d) * b * n for b, d, k, n in call.levels)
    assert seconds[-1] > moved / 460e9 > 0.8 * seconds[-1]
