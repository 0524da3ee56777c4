"""One provider on one case: the call to time, its check against float64 and its measurements."""

import statistics
from collections.abc import Callable

import torch

from benchmarks import accuracy, memory, timers
from benchmarks.providers import Provider
from benchmarks.workloads import Case, Inputs

# The gradient of the loss. float16 is trained with gradient scaling: this is the scaler's factor.
INCOMING = {"fp32": 1.0, "bf16": 1.0, "fp16": 1024.0}


class Call:
    """A provider on a case: ``setup()``, which is not timed, then ``run()``, any number of times."""

    def __init__(self, case: Case, provider: Provider, inputs: Inputs, device: str, flush: Callable):
        self.case, self.provider, self.inputs, self.device = case, provider, inputs, device
        self._flush = flush
        self._function = provider.build(case)
        self._incoming = torch.tensor(INCOMING[case.dtype], device=device)
        self._loss = None

    def setup(self) -> None:
        """``prepare()``, then puts the GPU to sleep so that the host can queue the timed part."""
        self.prepare()
        if self.device == "cuda":
            timers.let_host_run_ahead()

    def prepare(self) -> None:
        """What precedes the timed part: the forward of a backward, and flushing the caches."""
        torch.compiler.cudagraph_mark_step_begin()
        if self.case.mode == "backward":
            self._loss = self._forward()
        if self.case.shapes.cold:
            self._flush()

    def run(self) -> None:
        """The timed part. It includes freeing the results, as a training step does."""
        self._results()

    def check(self) -> dict[str, float]:
        """Relative errors of values and gradients against float64. AssertionError if they are too large."""
        self.prepare()
        outcome = self._results()
        incoming = self._incoming.item()
        expected = accuracy.expected_outcome(self.case, self.device)
        errors = accuracy.relative_errors(self.case, outcome, expected, incoming)
        limit = accuracy.TOLERANCE["fused" if self.provider.is_fused else "eager"][self.case.dtype]
        who = f"{self.provider.name}, {self.case}"
        for what, error in errors.items():
            assert error <= limit, f"{who}: {what} are off by {error:.1e}, more than {limit:.0e}"
        return errors

    def warm_up(self, rounds: int = 2) -> float:
        """Runs the call a few times. Returns the seconds of the last one, by the clock that will time it."""
        now = timers.clock(self.device)
        for _ in range(rounds):
            self.prepare()
            seconds = timers.timed(now, self.run)
        return seconds

    def peak_memory(self) -> int | None:
        """Bytes that forward and backward add at their peak; None where that cannot be measured."""
        replays_graph = self.provider.compile_mode == "max-autotune" and self.device == "cuda"
        if self.case.mode == "backward" or replays_graph:  # a graph's private pool escapes the count
            return None
        return memory.peak_added(self.run, self.device)

    def gpu_details(self) -> dict:
        """Launches, host time until the call returns, and wall time until its work on the GPU is done.

        ``host_behind_ms`` is the time between two events when the host has queued nothing in advance; what
        exceeds the device time is time in which the GPU waited for the host.
        """
        self.prepare()
        launched = timers.launches(self.run)
        listed = launched if self.provider.is_fused else []  # an eager call has hundreds
        kernels = [{"name": name[:80], "us": microseconds} for name, microseconds in listed]
        host, wall = timers.host_and_wall(self.prepare, self.run)
        behind = statistics.median(self._seconds_host_behind() for _ in range(9))
        return {
            "launches": len(launched) or None, "kernels": kernels,
            "host_us": host * 1e6, "wall_ms": wall * 1e3, "host_behind_ms": behind * 1e3,
        }  # fmt: skip

    def _seconds_host_behind(self) -> float:
        self.prepare()
        return timers.timed(timers.clock(self.device), self.run, host_ahead=False)

    def _forward(self):
        return self._function(*self.inputs.lists)

    def _results(self) -> accuracy.Outcome:
        if self.case.mode == "forward":
            with torch.no_grad():
                values = self._forward()
            return accuracy.Outcome(values if self.case.op == "mask" else [values], [])
        loss, self._loss = self._loss if self.case.mode == "backward" else self._forward(), None
        grads = torch.autograd.grad(loss, self.inputs.leaves, self._incoming.to(loss.dtype))
        return accuracy.Outcome([loss.detach()], list(grads))


def rounds_for(seconds: float, budget: float) -> int:
    """How many rounds of ``seconds`` each fit into a budget of seconds: from 5 to 60."""
    return int(min(60, max(5, budget / max(seconds, 1e-7))))
