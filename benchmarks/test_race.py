"""The whole loss with the providers taking turns: what any claim of "so many times faster" rests on.

Every round times each provider once, the machine's fastest copy too, so that whatever else the machine
does meets all of them alike. pytest-benchmark times the first fused backend; the others' rounds run in its
untimed setup, by the same clock, and stand in ``extra_info["turns"]``.
"""

import statistics

import pytest

from benchmarks import memory, selection, timers
from benchmarks.measure import rounds_for
from benchmarks.providers import FUSED, PROVIDERS
from benchmarks.workloads import make_inputs


def test_race(case, allocator, prepare, benchmark, copier, device, pytestconfig, seconds):
    size = pytestconfig.getoption("size")
    fused = [name for name in FUSED if PROVIDERS[name].unavailable(device) is None]
    if not fused:
        pytest.skip("no fused backend runs here: " + str(PROVIDERS[FUSED[0]].unavailable(device)))
    if allocator == "warm" and not memory.keep_freed_memory():
        pytest.skip("the C library is not glibc: its malloc cannot be told to keep memory")
    inputs = make_inputs(case, device)
    names = (*selection.rivals(size, device), *fused)
    prepared = {name: prepare(case, PROVIDERS[name], inputs) for name in names}
    calls = {name: call for name, (call, _, _) in prepared.items()}
    turns = {name: [] for name in (*names, "copy")}
    first = calls[fused[0]]
    now = timers.clock(device)

    def others_turns():
        for name, call in calls.items():
            if call is not first:
                call.setup()
                turns[name].append(timers.timed(now, call.run))
        turns["copy"].append(timers.timed(now, copier.run))
        first.setup()

    once = sum(seconds for _, _, seconds in prepared.values())
    rounds = max(7, rounds_for(once, 4 * seconds))
    benchmark.pedantic(first.run, setup=others_turns, rounds=rounds)
    turns[fused[0]] = list(benchmark.stats.stats.data)
    benchmark.extra_info.update(
        case=vars(case), provider=fused[0], allocator=allocator, bytes_moved=case.bytes_moved,
        turns={name: _spread(values) for name, values in turns.items()},
        errors={name: errors for name, (_, errors, _) in prepared.items()},
        copy_gbps=copier.bytes_moved / statistics.median(turns["copy"]) / 1e9,
    )  # fmt: skip


def _spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "q1": low, "q3": high, "min": min(values), "rounds": len(values)}
