"""Clocks for pytest-benchmark's ``timer=``, and the host time of a call."""

import statistics
import time
from collections.abc import Callable

import torch

# Clock cycles that the GPU sleeps before a timed call: about 3 ms, longer than the host takes for one call.
AHEAD_CYCLES = 6_000_000


def let_host_run_ahead() -> None:
    """Puts the GPU to sleep while the host queues the call to be timed.

    The start event is recorded after the sleep. By then the whole call is queued behind it, so that the time
    between the events contains no time in which the GPU waits for Python.
    """
    torch.cuda._sleep(AHEAD_CYCLES)


class CudaStamp:
    """A point on the current CUDA stream. The difference of two is the device time in between, in seconds."""

    def __init__(self):
        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def __sub__(self, start: "CudaStamp") -> float:
        self.event.synchronize()
        return start.event.elapsed_time(self.event) * 1e-3


def cuda_clock() -> CudaStamp:
    return CudaStamp()


def clock(device: str) -> Callable:
    """The clock for work on the device: CUDA events for a GPU, perf_counter for a CPU."""
    return cuda_clock if device == "cuda" else time.perf_counter


def timed(now: Callable, run: Callable, host_ahead: bool = True) -> float:
    """Seconds of one run by the clock ``now``, as pytest-benchmark takes them.

    Without ``host_ahead`` a GPU's time includes the host's time until its first launch.
    """
    if host_ahead and now is cuda_clock:
        let_host_run_ahead()
    start = now()
    run()
    return now() - start


def spread(values: list[float]) -> dict[str, float]:
    """The statistics of rounds that pytest-benchmark did not time itself."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "q1": low, "q3": high, "min": min(values), "rounds": len(values)}


def host_and_wall(setup: Callable, run: Callable, rounds: int = 20) -> tuple[float, float]:
    """Median seconds until a call on an idle GPU returns, and until its work on the GPU is done."""
    host, wall = [], []
    for _ in range(rounds):
        setup()
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        host.append(time.perf_counter() - start)
        torch.cuda.synchronize()
        wall.append(time.perf_counter() - start)
    return statistics.median(host), statistics.median(wall)


def launches(run: Callable) -> list[tuple[str, float]]:
    """(name, microseconds) of the kernels, copies and fills that one call launches, in order.

    Empty if the profiler sees no device. The times are those of one call under the profiler.
    """
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
    return [
        (event.name, event.time_range.elapsed_us())
        for event in recorded.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
