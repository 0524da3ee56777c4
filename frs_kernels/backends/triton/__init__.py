"""The Triton backend: for NVIDIA, AMD and Intel GPUs; on a CPU only in Triton's interpreter, for tests.

launches.py and kl_launches.py hold the operators. The kernels are in mask.py, loss.py (with imitation.py and
head.py, the maths of the two terms), kl.py, reduce.py and scale.py; tiles.py, kl_tiles.py and level_table.py
say which elements a program processes. Triton is imported only when the backend is first used.
"""

import importlib.util

import torch

from ...library import TRITON, constant_result, triton_library
from .. import devices

NAME = "triton"


@constant_result
def unavailable() -> str | None:
    """Why the backend can run on no device of this machine, or None. Registers the operators if it can."""
    if (reason := _no_triton()) is not None:
        return reason
    gpus = [device for device in devices() if device.type != "cpu"]
    keys = sorted({gpu.type.upper() for gpu in gpus})
    if interpreted():
        from .interpreter import patch_interpreter

        patch_interpreter()
        register(triton_library, [*keys, "CPU"])
        return None
    if not gpus:
        return "there is no GPU; for tests, Triton's interpreter runs with TRITON_INTERPRET=1"
    from .toolchain import cannot_compile

    reasons = [cannot_compile() or _no_code_for(gpu.type, gpu.index) for gpu in gpus]
    if None not in reasons:
        return reasons[0]
    register(triton_library, keys)
    return None


def unavailable_on(device: torch.device) -> str | None:
    """Why the backend cannot run on this device, or None."""
    if (reason := unavailable()) is not None:
        return reason
    if device.type not in ("cuda", "xpu", "cpu"):
        return f"there are no Triton kernels for {device.type} tensors"
    if interpreted():
        return None
    if device.type == "cpu":
        return "Triton runs on CPU tensors only in its interpreter: start Python with TRITON_INTERPRET=1"
    return _no_code_for(device.type, device.index)


def unsupported(inputs) -> str | None:
    """Why it cannot run for these arguments, or None."""
    return unavailable_on(inputs.device)


@constant_result
def _no_triton() -> str | None:
    """Why Triton cannot be imported, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    if not hasattr(triton, "knobs"):  # an old release, or a folder named triton
        return f"Triton 3.4 or later is needed, {triton.__path__[0]} is something else"
    return None


@constant_result
def _no_code_for(kind: str, index: int | None) -> str | None:
    """Why Triton makes no code for this GPU, or None. Only NVIDIA's have a compute capability."""
    if kind != "cuda" or torch.version.hip or not torch.cuda.is_available():
        return None
    from .toolchain import no_code_for

    return no_code_for(torch.cuda.get_device_capability(index))


def namespace():
    return getattr(torch.ops, TRITON)


@constant_result
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter. It is decided when they are first imported."""
    import triton

    return triton.knobs.runtime.interpret  # pyright: ignore[reportAttributeAccessIssue]  # a lazy module


def register(library: torch.library.Library, dispatch_keys: list[str]) -> None:
    """Implements the operators of ``library`` for these dispatch keys ("CUDA", "CPU", ...)."""
    from . import (
        arithmetic,
        head,
        imitation,
        kl,
        kl_launches,
        kl_tiles,
        launches,
        level_table,
        loss,
        mask,
        reduce,
        scale,
        tiles,
    )
    from .launcher import precompute_cache_keys

    callees_first = level_table, arithmetic, tiles, mask, imitation, head, reduce, loss, scale, kl_tiles, kl
    precompute_cache_keys(*callees_first)
    operators = {"mask": launches.mask, "kl": kl_launches.kl, "scale_": launches.scale_}
    operators |= dict.fromkeys(("loss", "imitation", "head"), launches.loss)
    for name, function in operators.items():
        for key in dispatch_keys:
            library.impl(name, function, key)
