"""The backends: ``eager`` runs the reference, each other one a namespace of registered operators."""

import torch


def devices() -> list[torch.device]:
    """The devices of this machine that a fused backend may have kernels for: the CPU, then every GPU."""
    gpus = [torch.device(kind, i) for kind in ("cuda", "xpu") for i in range(_count(kind))]
    return [torch.device("cpu"), *gpus]


def _count(kind: str) -> int:
    module = getattr(torch, kind)
    return module.device_count() if module.is_available() else 0
