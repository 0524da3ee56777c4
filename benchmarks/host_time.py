"""The host time of a call by phase: python -m benchmarks.host_time

For losses so small that their time is the overhead of a call. Each phase is a function of its own, which runs
on what the phase before it has made; all of them, and the whole call, take turns. So each finds the caches of
the processor as the others left them: in a loop of its own a phase takes about half as long. The table shows
the median microseconds on one thread. `autograd` is `fused_loss` without its operator: the nodes and the
results. `bare backward` is the backward of nodes that have the same students and do nothing.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import frs_kernels as frs
from benchmarks.workloads import Case, Inputs, make_inputs
from frs_kernels import autograd, checks, dispatch
from frs_kernels.inputs import LossInputs

LEVELS = ((4, 4), (3, 3), (2, 2), (2, 1), (1, 1))
PHASES = ("checks", "dispatch", "canonical", "arguments", "operator", "autograd", "backward")
COLUMNS = (*PHASES, "bare backward", "forward, no grad", "forward", "both")


@dataclass(frozen=True)
class HostCase:
    """A public function, its tensors, and the inputs of the later phases as that function makes them."""

    tensors: Inputs
    imitation_alone: bool = False

    def call(self) -> torch.Tensor:
        t = self.tensors
        if self.imitation_alone:
            return frs.weighted_mse(t.student_feats, t.teacher_feats, t.masks)
        return frs.frs_loss(
            t.student_feats, t.teacher_feats,
            student_logits=t.student_logits, teacher_logits=t.teacher_logits,
        ).total  # fmt: skip

    def checked(self) -> LossInputs:
        t = self.tensors
        return checks.check(
            LossInputs(
                student_feats=checks.as_levels("student_feats", t.student_feats),
                teacher_feats=checks.as_levels("teacher_feats", t.teacher_feats),
                student_logits=checks.as_levels("student_logits", t.student_logits or None),
                teacher_logits=checks.as_levels("teacher_logits", t.teacher_logits or None),
                masks=checks.as_masks("masks", t.masks or None),
            )
        )


class Bare(torch.autograd.Function):
    """A node that returns what it was given: what torch takes for any node of these students."""

    @staticmethod
    def forward(ctx, loss, grads, *students):
        ctx.grads = grads
        return loss.clone()

    @staticmethod
    def backward(ctx, *grad_outputs):
        grads, ctx.grads = ctx.grads, None
        return None, None, *grads


def bare_loss(tensors: Inputs) -> torch.Tensor:
    terms = [
        Bare.apply(torch.ones(()), [torch.empty_like(student) for student in students], *students)
        for students in (tensors.student_feats, tensors.student_logits)
        if students
    ]
    return sum(terms[1:], terms[0])


def cases() -> dict[str, HostCase]:
    def level_tensors(channels: int, grad: bool) -> list[torch.Tensor]:
        return [torch.randn(1, channels, *size, requires_grad=grad) for size in LEVELS]

    small = Inputs(*(level_tensors(channels, grad) for channels in (4, 3) for grad in (True, False)))
    masks = [torch.rand(1, *size) for size in LEVELS]
    imitation = Inputs(small.student_feats, small.teacher_feats, masks=masks)
    tiny = make_inputs(Case("loss", "both", "tiny", 2, "fp32", "nchw"), "cpu")
    return {
        "frs_loss, 5 small levels": HostCase(small),
        "frs_loss, workload tiny": HostCase(tiny),
        "weighted_mse, 5 small levels": HostCase(imitation, imitation_alone=True),
    }


def measure(case: HostCase, rounds: int) -> dict[str, float]:
    """Median microseconds of each of COLUMNS."""
    inputs = case.checked()
    canonical = inputs.canonical()
    namespace = dispatch.select("auto", inputs).namespace().name
    grads = bool(inputs.student_feats), bool(inputs.student_logits)

    def operator() -> None:
        with torch.no_grad():
            autograd.run_operator(namespace, canonical, *grads)

    def no_grad() -> None:
        with torch.no_grad():
            case.call()

    def both() -> None:
        case.call().backward()

    calls: dict[str, Callable[[], object]] = {
        "checks": case.checked,
        "dispatch": lambda: dispatch.select("auto", inputs),
        "canonical": inputs.canonical,
        "arguments": lambda: autograd.loss_arguments(canonical, *grads),
        "operator": operator,
        "autograd": lambda: autograd.fused_loss(namespace, canonical),
        "forward, no grad": no_grad,
        "forward": case.call,
        "both": both,
    }
    backwards = {"backward": case.call, "bare backward": lambda: bare_loss(case.tensors)}
    seconds: dict[str, list[float]] = {name: [] for name in (*calls, *backwards)}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(_timed(case, call))
        for name, forward in backwards.items():
            seconds[name].append(_timed(case, forward().backward))
    median = {name: 1e6 * statistics.median(values) for name, values in seconds.items()}
    median["autograd"] -= median["operator"]  # which contains the arguments
    median["operator"] -= median["arguments"]
    return {name: median[name] for name in COLUMNS}


def _timed(case: HostCase, call: Callable[[], object]) -> float:
    for leaf in case.tensors.leaves:
        leaf.grad = None
    start = time.perf_counter()
    result = call()
    end = time.perf_counter()
    del result  # what the call returns is not freed within its time
    return end - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| microseconds |", " | ".join(COLUMNS), "|")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name, case in cases().items():
        measure(case, options.rounds // 10)  # warm-up
        times = measure(case, options.rounds)
        print(f"| {name} |", " | ".join(f"{times[column]:.0f}" for column in COLUMNS), "|", flush=True)


if __name__ == "__main__":
    main()
