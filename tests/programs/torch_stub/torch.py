"""What setup.py reads of torch: version 2.11.0, for CUDA $TORCH_STUB_CUDA or without CUDA if unset.

It sees one GPU of the compute capability $TORCH_STUB_GPU, or none if unset.
"""

import os
from types import SimpleNamespace

__version__ = "2.11.0"
version = SimpleNamespace(cuda=os.environ.get("TORCH_STUB_CUDA"))
_gpus = os.environ.get("TORCH_STUB_GPU", "").split()
cuda = SimpleNamespace(
    device_count=lambda: len(_gpus),
    get_device_capability=lambda index: tuple(map(int, _gpus[index].split("."))),
)
