"""Which backend runs: the one asked for, or the first of the preferred ones that takes the arguments."""

from dataclasses import dataclass

import torch
from torch.autograd import forward_ad

from frs_kernels.backends import eager, native, triton
from frs_kernels.contract import MAX_LEVELS
from frs_kernels.levels import Terms

# What "auto" tries, in order, per device type. The order on GPUs is that measured on an H200
# (docs/results/cuda-nvidia-h200.md): the device's times are within 5 %, native takes less of the host.
PREFERENCE = {
    "cpu": ("native", "triton", "eager"),
    "cuda": ("native", "triton", "eager"),
    "xpu": ("triton", "eager"),
}
BACKENDS = {"native": native, "triton": triton, "eager": eager}


@dataclass(frozen=True)
class BackendReport:
    """What :func:`frs_kernels.explain_backend` found; prints as text.

    Attributes:
        chosen: the backend that would run.
        reasons: why each other backend would not, by name.
        copies: the copies that the chosen backend would make of tensors it cannot read in place.
    """

    chosen: str
    reasons: dict[str, str]
    copies: list[str]

    def __str__(self) -> str:
        lines = [f"{self.chosen}: runs"]
        lines += [f"{name}: {reason}" for name, reason in self.reasons.items()]
        lines += [f"copy: {note}" for note in self.copies]
        return "\n".join(lines)


def load(name: str):
    """The backend module of that name."""
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is none of {('auto', *BACKENDS)}")
    return BACKENDS[name]


def available_backends() -> list[str]:
    """Names of the backends that can run on this machine, best first."""
    return [name for name, backend in BACKENDS.items() if backend.unavailable() is None]


def refusal(name: str, terms: Terms) -> str | None:
    """Why the backend does not run for these arguments, or None."""
    backend = load(name)
    if name != "eager" and _levels(terms) > MAX_LEVELS:
        return f"{_levels(terms)} levels, the fused kernels take {MAX_LEVELS} in one call"
    if name != "eager" and _transformed(terms):
        return "torch.func's transforms and forward-mode derivatives are eager's: kernels know the gradient"
    return backend.refuses(terms)


def _transformed(terms: Terms) -> bool:
    """Whether tensors stand for more than their values: operators without a rule for it would drop that."""
    if torch._C._are_functorch_transforms_active():
        return True
    if forward_ad._current_level < 0:  # what unpack_dual asks first, for each tensor
        return False
    students = terms.student_feats + terms.student_logits
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in students)


def select(name: str, terms: Terms):
    """The backend module to run. Raises RuntimeError if the one asked for by name cannot."""
    if name != "auto":
        backend = load(name)
        reason = refusal(name, terms)
        if reason is not None:
            raise RuntimeError(f"backend {name!r} cannot run: {reason}")
        return backend
    return load(_preferred(terms))


def explain(name: str, terms: Terms) -> BackendReport:
    """What :func:`select` would choose, and why not the others."""
    chosen = select(name, terms).NAME
    reasons = {}
    for other in BACKENDS:
        if other != chosen:
            reasons[other] = refusal(other, terms) or _passed_over(other, chosen, name)
    return BackendReport(chosen, reasons, [] if chosen == "eager" else terms.copies())


def _passed_over(other: str, chosen: str, asked: str) -> str:
    if asked != "auto":
        return f"could run, but {asked!r} was asked for"
    if (chosen, other) == ("native", "triton"):
        return f"could run; {chosen} is preferred: {_MEASURED}"
    return f"could run; {chosen} is preferred"


_MEASURED = (
    "RetinaNet at 800x1344, 16 images, on an H200: 0.72 ms against Triton's 0.72 to 0.73 in bfloat16, 1.37 "
    "to 1.38 against 1.30 to 1.34 in float32, and 0.75 to 0.97 ms of the host against 1.2 to 1.7"
)


def _preferred(terms: Terms) -> str:
    names = PREFERENCE.get(terms.tensors[0].device.type, ("eager",))
    return next(name for name in names if refusal(name, terms) is None)


def _levels(terms: Terms) -> int:
    return len(terms.student_feats or terms.student_logits or terms.teacher_logits)
