"""What setup.py reads of torch: version 2.11.0, for CUDA $TORCH_STUB_CUDA or without if unset, and no GPU."""

import os
from types import SimpleNamespace

__version__ = "2.11.0"
version = SimpleNamespace(cuda=os.environ.get("TORCH_STUB_CUDA"))
cuda = SimpleNamespace(device_count=lambda: 0)
