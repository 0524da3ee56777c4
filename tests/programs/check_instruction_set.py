"""Compares the CPU kernels with float64, on the instruction set ISA: check_instruction_set.py ISA.

ISA is the name that PyTorch gives it. ATEN_CPU_CAPABILITY=ISA has to be set in the environment: it is an
error if the kernels run on another instruction set.
"""

import sys

import torch
from cpu_calls import check_large_gradients, check_special_values, make_call, run

import frs_kernels as frs
from frs_kernels import cpu_settings, reference

TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 2e-3}


def check_ordinary_values():
    for dtype, tolerance in TOLERANCES.items():
        for layout in (torch.contiguous_format, torch.channels_last):
            call = make_call(dtype, layout)
            exact = run({name: [t.double() for t in call[name]] for name in call}, backend="eager")
            for ours, truth in zip(run(call), exact, strict=True):
                allowed = {"rtol": tolerance, "atol": tolerance * truth.abs().max()}
                torch.testing.assert_close(ours.double(), truth, **allowed)
            logits = call["teacher_logits"]
            masks = frs.frs_mask(logits, backend="native")
            for ours, truth in zip(masks, reference.frs_mask([t.double() for t in logits]), strict=True):
                torch.testing.assert_close(ours.double(), truth, rtol=1e-6, atol=0)


isa = sys.argv[1]
assert cpu_settings.instruction_set() == isa, f"runs on {cpu_settings.instruction_set()}"
check_ordinary_values()
check_special_values()
check_large_gradients()
print(f"{isa}: right")
