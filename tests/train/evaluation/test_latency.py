"""The measurement of calls in turns, with a clock that the calls advance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frs_train.evaluation.latency import TURNS, Latency, measure_in_turns


class Machine:
    """A clock, and calls that advance it. The machine becomes slower with every call by a factor `drift`."""

    def __init__(self, *seconds: float, drift: float = 1.0):
        self.time, self.speed, self.drift = 0.0, 1.0, drift
        self.log: list[int] = []
        self.calls = [lambda i=i, s=s: self.run(i, s) for i, s in enumerate(seconds)]

    def run(self, index: int, seconds: float) -> None:
        self.log.append(index)
        self.time += seconds * self.speed
        self.speed *= self.drift

    def measure(self, seconds: float) -> list[Latency]:
        return measure_in_turns(self.calls, seconds, clock=lambda: self.time)


@given(st.lists(st.floats(1e-3, 10), min_size=1, max_size=4), st.floats(0.01, 20))
def test_each_call_gets_its_time_and_at_least_one_timed_call_a_turn(costs, seconds):
    machine = Machine(*costs)
    for index, (cost, found) in enumerate(zip(costs, machine.measure(seconds), strict=True)):
        assert found.median == pytest.approx(cost) and found.p10 == pytest.approx(found.p90)
        assert found.calls >= TURNS and (found.calls * cost >= seconds * (1 - 1e-6))
        assert found.calls == TURNS or (found.calls - TURNS) * cost <= seconds * (1 + 1e-6)
        assert machine.log.count(index) == found.calls + TURNS, "one call of a turn is not timed"


def test_the_calls_take_turns_in_alternating_order():
    machine = Machine(1.0, 1.0, 1.0)
    machine.measure(1e-3)
    assert machine.log == [0, 0, 1, 1, 2, 2, 2, 2, 1, 1, 0, 0] * (TURNS // 2)


def test_a_machine_that_becomes_slower_favors_no_call():
    first, last = Machine(1.0, 1.0, drift=1.01).measure(1e-3)
    assert first.median == pytest.approx(last.median, rel=1e-3) and first.p90 > 1.2 * first.p10


def test_progress_is_told_for_each_turn():
    told = []
    machine = Machine(1.0, 2.0)
    measure_in_turns(machine.calls, 0.1, lambda **news: told.append(news), lambda: machine.time)
    assert told == [{"advance": 1}] * (2 * TURNS)


def test_quantiles():
    found = Latency.of([float(k) for k in range(11)])
    assert (found.p10, found.median, found.p90, found.calls) == (1.0, 5.0, 9.0, 11)
    assert found.spread == pytest.approx(8 / 5)
