"""What setup.py reads of torch: version 2.11.0, for CUDA $TORCH_STUB_CUDA or without CUDA if unset."""

import os
from types import SimpleNamespace

__version__ = "2.11.0"
version = SimpleNamespace(cuda=os.environ.get("TORCH_STUB_CUDA"))
