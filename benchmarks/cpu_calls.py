"""Calls of the CPU operators, without the Python around them, and the time of their arithmetic."""

from collections.abc import Callable

import torch

from benchmarks.timers import clock, timed
from benchmarks.workloads import WORKLOADS, Case, make_inputs

# Normalizer "mask", both scales 1, and beta 0.
SCALARS = (0, 1.0, None, 1.0, None, 1.0, None, 0.0)


def operator_call(case: Case) -> Callable[[], object]:
    """A call of the operator of a case on random inputs. Modes: "forward", and "both" with gradients."""
    feats, teacher_feats, logits, teacher_logits, masks = make_inputs(case, "cpu").lists
    operators = torch.ops.frs_kernels
    if case.op == "mask":
        return lambda: operators.mask(teacher_logits)
    grads = case.mode == "both"
    arguments = (feats, teacher_feats, logits, teacher_logits, masks, [], *SCALARS)
    wanted = (grads and bool(feats), grads and bool(logits), False)
    return lambda: operators.loss(*arguments, *wanted)


def cached_seconds(op: str, mode: str, dtype: str, layout: str, calls: int) -> float:
    """Seconds per logit of a pass whose data are in a cache, without the overhead of a call.

    Set torch to one thread before. It is the shortest of many calls.
    """
    small = f"cached-{layout}"
    pair = [operator_call(Case(op, mode, name, 1, dtype, layout)) for name in (small, "one-location")]
    seconds, overhead = (min(timed(clock("cpu"), call) for _ in range(calls)) for call in pair)
    return (seconds - overhead) / WORKLOADS[small].logit_elements
