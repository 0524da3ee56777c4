"""Computes a mask, prints which backend is chosen and why, and runs `python -m frs_kernels.info`."""

import runpy

import torch

import frs_kernels as frs

logits = torch.randn(1, 3, 4, 5)
assert frs.frs_mask(logits).shape == (1, 4, 5)
print(frs.explain_backend(logits, logits, teacher_logits=logits))
runpy.run_module("frs_kernels.info", run_name="__main__")
