"""Races: a loss by providers that take turns. Every claim of "so many times faster" rests on them.

A round times each provider and the machine's fastest copy once, so that other load slows all of them alike.
pytest-benchmark times the first fused backend. The others run in its setup, which it does not time, by the
same clock; their times are in ``extra_info["turns"]``. ``extra_info["missing"]`` has the providers that fail
or need more memory or time than there is, with the reason.
"""

import statistics
import time

import pytest

from benchmarks import memory, selection, timers
from benchmarks.measure import rounds_for
from benchmarks.providers import FUSED, PROVIDERS
from benchmarks.race import Race
from benchmarks.workloads import make_inputs


def test_race(case, allocator, prepare, benchmark, copier, device, pytestconfig, seconds, share):
    started = time.monotonic()
    size = pytestconfig.getoption("size")
    fused = [name for name in FUSED if PROVIDERS[name].unavailable(device, case.op) is None]
    if not fused:
        reason = PROVIDERS[FUSED[0]].unavailable(device, case.op)
        pytest.skip(f"no fused backend runs here: {reason}")
    if allocator == "warm" and not memory.keep_freed_memory():
        pytest.skip("the C library is not glibc: its malloc cannot be made to keep freed memory")
    inputs = make_inputs(case, device)
    race = Race(device, copier.run)
    for name in (*fused, *selection.rivals(size, device)):
        if name in fused or time.monotonic() - started < share:
            race.admit(name, lambda name=name: prepare(case, PROVIDERS[name], inputs))
        else:
            race.missing[name] = f"no time left of the {share:.0f} seconds of this race"
            benchmark.extra_info["unfinished"] = True
    failed = {name: race.missing[name] for name in fused if name in race.missing}
    if failed:
        benchmark.extra_info["unfinished"] = True
    first = next((name for name in fused if name in race.calls), None)
    assert first is not None, failed
    rounds = max(7, rounds_for(race.once, 4 * seconds))
    benchmark.pedantic(race.calls[first].run, setup=lambda: race.others_turns(first), rounds=rounds)
    race.turns[first] = list(benchmark.stats.stats.data)
    benchmark.extra_info.update(
        case=vars(case), provider=first, allocator=allocator, bytes_moved=case.bytes_moved,
        turns={name: timers.spread(values) for name, values in race.turns.items()},
        errors=race.errors, missing=race.missing,
        copy_gbps=copier.bytes_moved / statistics.median(race.turns["copy"]) / 1e9,
    )  # fmt: skip
    assert not failed, f"the race is recorded without {failed}"
