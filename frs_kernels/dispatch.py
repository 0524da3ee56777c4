"""Choice of the backend: the one named by the caller, or the first in order of preference that can run."""

from dataclasses import dataclass
from types import ModuleType

import torch
from torch.autograd import forward_ad

from . import transforms
from .backends import eager, native, triton
from .contract import MAX_LEVELS
from .inputs import KLInputs, LossInputs
from .torch_private import dual_level_is_open, is_exporting, transforms_are_active

# What "auto" tries, in order, by device type. The order on GPUs follows from measurements on an H200
# (docs/results/cuda-nvidia-h200.md): kernel times differ by at most 5 %, and native takes less host time.
PREFERENCE = {
    "cpu": ("native", "triton", "eager"),
    "cuda": ("native", "triton", "eager"),
    "xpu": ("triton", "eager"),
}
BACKENDS: dict[str, ModuleType] = {"native": native, "triton": triton, "eager": eager}
_MEASURED = (
    "RetinaNet at 800x1344 with 16 images takes 0.72 ms on an H200 (Triton: 0.72 to 0.73) in bfloat16, "
    "1.37 to 1.38 ms (1.30 to 1.34) in float32, and 0.75 to 0.97 ms (1.2 to 1.7) of host time"
)


@dataclass(frozen=True)
class BackendReport:
    """The result of :func:`frs_kernels.explain_backend`; prints as text.

    Attributes:
        chosen: the backend that would run.
        reasons: why each other backend would not run, by name.
        copies: the copies that the chosen backend would make of tensors it cannot read in place; not listed
            inside transforms of torch.func.
    """

    chosen: str
    reasons: dict[str, str]
    copies: list[str]

    def __str__(self) -> str:
        lines = [f"{self.chosen}: runs"]
        lines += [f"{name}: {reason}" for name, reason in self.reasons.items()]
        lines += [f"copy: {note}" for note in self.copies]
        return "\n".join(lines)


def load(name: str) -> ModuleType:
    """The backend module of that name."""
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is none of {('auto', *BACKENDS)}")
    return BACKENDS[name]


def available_backends() -> list[str]:
    """Names of the backends that can run on this machine, best first."""
    return [name for name, backend in BACKENDS.items() if backend.unavailable() is None]


def why_not(name: str, inputs: LossInputs | KLInputs) -> str | None:
    """Why the backend cannot run for these arguments, or None if it can."""
    backend = load(name)
    if name != "eager" and inputs.num_levels > MAX_LEVELS:
        return f"{inputs.num_levels} levels, the fused kernels take {MAX_LEVELS} in one call"
    if name != "eager" and (reason := _recording_unsupported(inputs)) is not None:
        return reason
    return backend.unsupported(inputs)


def _recording_unsupported(inputs: LossInputs | KLInputs) -> str | None:
    """Why fused operators cannot run with what records them here, or None.

    They would drop all but the values of tensors that carry more, which are wrappers of torch.func and
    tangents. A graph that is exported has no gradients of them, and one of torch.jit.trace no code.
    """
    if transforms_are_active(inputs):
        return transforms.unsupported(inputs)
    if dual_level_is_open():
        # torch does not annotate unpack_dual.
        duals = [forward_ad.unpack_dual(tensor) for tensor in inputs.students]  # pyright: ignore[reportUnknownMemberType]
        if any(dual.tangent is not None for dual in duals):
            return transforms.ONLY_EAGER
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage] (documented all the same)
        return "only eager can be recorded by torch.jit.trace"
    if is_exporting() and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs.students):
        return "only eager has gradients in an exported graph: without them, export under torch.no_grad()"
    return None


def select(name: str, inputs: LossInputs | KLInputs) -> ModuleType:
    """The backend module to run. Raises RuntimeError if the backend that the caller named cannot run."""
    if name == "auto":
        return load(_first_that_runs(inputs))
    backend = load(name)
    reason = why_not(name, inputs)
    if reason is not None:
        raise RuntimeError(f"backend {name!r} cannot run: {reason}")
    return backend


def explain(name: str, inputs: LossInputs) -> BackendReport:
    """What :func:`select` would choose, and why none of the others."""
    chosen = select(name, inputs).NAME
    reasons = {
        other: why_not(other, inputs) or _why_not_chosen(other, chosen, name)
        for other in BACKENDS
        if other != chosen
    }
    return BackendReport(
        chosen, reasons, [] if chosen == "eager" or transforms_are_active(inputs) else inputs.copies()
    )


def _why_not_chosen(other: str, chosen: str, requested: str) -> str:
    """Why a backend that could run does not."""
    if requested != "auto":
        return f"could run, but {requested!r} was requested"
    if (chosen, other) == ("native", "triton"):
        return f"could run; {chosen} is preferred: {_MEASURED}"
    return f"could run; {chosen} is preferred"


def _first_that_runs(inputs: LossInputs | KLInputs) -> str:
    *fused, last = PREFERENCE.get(inputs.device.type, ("eager",))
    for name in fused:
        if why_not(name, inputs) is None:
            return name
    return last
