"""The compiled kernels: vectorised C++ on the CPU, CUDA C++ on a GPU (``csrc/``)."""

import torch

from ..inputs import KLInputs, LossInputs
from ..library import NATIVE, build_info, constant_result, load_native
from . import devices

NAME = "native"


def unavailable() -> str | None:
    """Why the backend can run on no device of this machine, or None."""
    reasons = [unavailable_on(device) for device in devices()]
    return None if None in reasons else reasons[0]


def unavailable_on(device: torch.device) -> str | None:
    """Why the backend cannot run on this device, or None."""
    if device.type not in ("cpu", "cuda"):
        return f"there are no compiled kernels for {device.type} tensors"
    reason = load_native(device.type)
    if reason is None and device.type == "cuda":
        return no_code_for_gpu(device.index)
    return reason


def unsupported(inputs: LossInputs | KLInputs) -> str | None:
    """Why the backend cannot run for these arguments, or None."""
    if isinstance(inputs, KLInputs) and inputs.device.type == "cuda":
        return "weighted_kl has no kernel in CUDA C++, but one in Triton"
    return unavailable_on(inputs.device)


def no_code_for_gpu(index: int | None) -> str | None:
    """Why the CUDA kernels as built cannot run on this GPU (None: the current one), or None."""
    if index is None and torch.cuda.is_available():
        index = torch.cuda.current_device()
    return _no_code_for_gpu(index)


@constant_result
def _no_code_for_gpu(index: int | None) -> str | None:
    if not torch.cuda.is_available():  # fake tensors, traced on a machine without a GPU
        return None
    return no_code_for(torch.cuda.get_device_capability(index))


def no_code_for(capability: tuple[int, int]) -> str | None:
    """Why the CUDA kernels as built cannot run on a GPU of this compute capability, or None."""
    archs = build_info().get("cuda_archs")
    if not archs or covers(archs, capability):
        return None
    version = "{}.{}".format(*capability)
    return (
        f"the CUDA kernels were built for {', '.join(archs)} and this GPU has compute capability {version}; "
        f"reinstall with TORCH_CUDA_ARCH_LIST={version}"
    )


def covers(archs: list[str], capability: tuple[int, int]) -> bool:
    """Whether code for ``archs`` ("9.0", "9.0a", "12.0+PTX") runs on a GPU of this compute capability.

    Machine code runs on GPUs of the same major version and at least its minor version, PTX on all later GPUs.
    Code for one architecture alone ("9.0a") runs on no other, and code for a family ("10.0f") on those of its
    major version, whether it is machine code or PTX.
    """
    return any(_runs(arch, capability) for arch in archs)


def _runs(arch: str, capability: tuple[int, int]) -> bool:
    number, has_ptx, _ = arch.partition("+")
    version = tuple(map(int, number.rstrip("af").split(".")))
    if number.endswith("a"):
        return version == capability
    is_of_family = version[0] == capability[0] and version[1] <= capability[1]
    runs_on_later = bool(has_ptx) and not number.endswith("f")
    return is_of_family or (runs_on_later and version <= capability)


def namespace():
    """The operators."""
    return getattr(torch.ops, NATIVE)
