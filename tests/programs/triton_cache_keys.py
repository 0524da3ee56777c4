"""Prints the cache keys of two Triton kernels, after computing that of KERNEL first.

triton_cache_keys.py mask_sums_kernel|loss_kernel
"""

import sys

import torch

from frs_kernels.backends import triton

triton.register(torch.library.Library("keys", "FRAGMENT"), [])

from frs_kernels.backends.triton import loss, mask  # noqa: E402

kernels = {"mask_sums_kernel": mask.mask_sums_kernel, "loss_kernel": loss.loss_kernel}
first = kernels[sys.argv[1]].cache_key
print(*(kernels[name].cache_key for name in sorted(kernels)))
