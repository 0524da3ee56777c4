"""The Triton kernels: NVIDIA, AMD and Intel GPUs; on a CPU only in Triton's interpreter, for tests.

``mask``, ``imitation`` and ``head`` hold the maths, ``tiles`` how a program finds its work, ``loss``,
``reduce`` and ``scale`` the other kernels, ``plan`` how tensors become tiles, ``passes`` and ``operators``
what the three registered operators launch. Triton is imported when the backend is first asked for.
"""

import importlib.util

import torch

from frs_kernels.library import TRITON, constant_result, triton_library

NAME = "triton"


@constant_result
def unavailable() -> str | None:
    """Why the backend cannot run on this machine at all, or None. Registers the operators if it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported: {error}"
    if not hasattr(triton, "knobs"):  # an old release, or a folder of that name
        return f"Triton 3.4 or later is needed, {triton.__path__[0]} is something else"
    gpus = [name for name in ("cuda", "xpu") if getattr(torch, name).is_available()]
    if not gpus and not interpreted():
        return "there is no GPU; for tests, Triton's interpreter runs with TRITON_INTERPRET=1"
    if interpreted():
        from frs_kernels.backends.triton.interpreter import mend

        mend()
    register(triton_library, [*map(str.upper, gpus), *(["CPU"] if interpreted() else [])])
    return None


def unsupported(inputs) -> str | None:
    """Why it cannot run for these arguments, or None."""
    if (reason := unavailable()) is not None:
        return reason
    device = inputs.device.type
    if device == "cpu" and not interpreted():
        return "Triton runs on CPU tensors only in its interpreter: start Python with TRITON_INTERPRET=1"
    if device not in ("cuda", "xpu", "cpu"):
        return f"there are no Triton kernels for {device} tensors"
    return None


def namespace():
    return getattr(torch.ops, TRITON)


@constant_result
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, which is decided when they are first imported."""
    import triton

    return triton.knobs.runtime.interpret


def register(library: torch.library.Library, dispatch_keys: list[str]) -> None:
    """Implements the three operators of ``library`` for these devices, named as PyTorch's dispatcher does."""
    from frs_kernels.backends.triton import head, imitation, loss, mask, operators, reduce, scale, tiles
    from frs_kernels.backends.triton.launch import settle_keys

    settle_keys(tiles, mask, imitation, head, reduce, loss, scale)
    for name in ("mask", "loss", "scale_"):
        for key in dispatch_keys:
            library.impl(name, getattr(operators, name), key)
