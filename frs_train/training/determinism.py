"""The switch for deterministic kernels of PyTorch."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def reproducible(enabled: bool) -> Iterator[None]:
    """Uses deterministic kernels in this block, for the operations that have them."""
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
