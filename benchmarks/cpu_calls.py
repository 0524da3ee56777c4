"""Calls of the CPU operators, without the Python around them."""

from collections.abc import Callable

import torch

from benchmarks.workloads import Case, make_inputs

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
