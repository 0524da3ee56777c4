"""Loads the CUDA library LIBRARY where nothing else has loaded it: load_cuda_library.py LIBRARY.

Prints whether the operator `loss` has a CUDA kernel then.
"""

import sys

import torch

import frs_kernels.library  # noqa: F401

torch.ops.load_library(sys.argv[1])
print(torch._C._dispatch_has_kernel_for_dispatch_key("frs_kernels::loss", "CUDA"))
