"""Loads the CUDA library LIBRARY where nothing else has loaded it: load_cuda_library.py LIBRARY.

Prints whether the operator `loss` has a CUDA kernel then.
"""

import sys
from pathlib import Path

import torch

from frs_kernels import library

library.implement(library.NATIVE, Path(sys.argv[1]), "CUDA")
print(torch._C._dispatch_has_kernel_for_dispatch_key("frs_kernels::loss", "CUDA"))
