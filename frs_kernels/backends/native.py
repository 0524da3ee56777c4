"""The compiled kernels: vectorised C++ on the CPU, CUDA C++ on a GPU (``csrc/``)."""

import torch

from frs_kernels.library import NATIVE, load_native

NAME = "native"


def unavailable() -> str | None:
    """Why the backend cannot run on this machine at all, or None."""
    cpu = load_native("cpu")
    if cpu is None or not torch.cuda.is_available():
        return cpu
    return load_native("cuda")


def refuses(terms) -> str | None:
    """Why it cannot run for these arguments, or None."""
    device = terms.tensors[0].device.type
    if device not in ("cpu", "cuda"):
        return f"there are no compiled kernels for {device} tensors"
    return load_native(device)


def namespace():
    return getattr(torch.ops, NATIVE)
