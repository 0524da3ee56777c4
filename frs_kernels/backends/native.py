"""The compiled kernels: vectorised C++ on the CPU, CUDA C++ on a GPU (``csrc/``)."""

import torch

from frs_kernels.library import NATIVE, build_info, constant_result, load_native

NAME = "native"


def unavailable() -> str | None:
    """Why the backend cannot run on this machine at all, or None."""
    reason = load_native("cpu")
    if reason is None or not torch.cuda.is_available():
        return reason
    return load_native("cuda")


def unsupported(inputs) -> str | None:
    """Why the backend cannot run for these arguments, or None."""
    device = inputs.device
    if device.type not in ("cpu", "cuda"):
        return f"there are no compiled kernels for {device.type} tensors"
    reason = load_native(device.type)
    if reason is None and device.type == "cuda":
        return no_code_for_gpu(device.index)
    return reason


@constant_result
def no_code_for_gpu(index: int | None) -> str | None:
    """Why the CUDA kernels as built cannot run on this GPU, or None."""
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
    """Whether code for ``archs`` ("9.0", "12.0+PTX") runs on a GPU of this compute capability.

    Machine code runs on GPUs of the same major version and at least its minor version, PTX on all later GPUs.
    """
    for arch in archs:
        number, has_ptx, _ = arch.partition("+")
        major, minor = (int(part) for part in number.rstrip("af").split("."))
        if (major == capability[0] and minor <= capability[1]) or (has_ptx and (major, minor) <= capability):
            return True
    return False


def namespace():
    """The operators."""
    return getattr(torch.ops, NATIVE)
