"""The competitors: eager formulations, torch.compile of them, and the fused backends.

A provider turns a case into a function of the five lists of :class:`workloads.Inputs` that returns the masks
("mask") or a 0-d loss. Neither eager formulation is the project's reference: one is what the authors
published, the other the fastest in plain PyTorch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

import frs_kernels as frs
from benchmarks import divergences
from benchmarks.workloads import KL_OPS, Case
from frs_kernels import dispatch
from frs_kernels.inputs import KLInputs, LossInputs


class Official:
    """The published formulation: BCE of probabilities; every channel is multiplied by the mask, then summed.

    Source: the distillation loop of the FRS authors' detectors (arXiv 2111.00674). float16 becomes float32
    first, as with mmdetection's force_fp32: float16 sums overflow.
    """

    @staticmethod
    def mask(teacher_logits):
        return [t.sigmoid().max(dim=1).values for t in teacher_logits]

    @staticmethod
    def imitation(student, teacher, masks):
        total = 0.0
        for x, y, m in zip(student, teacher, masks, strict=True):
            x, y = _without_float16(x), _without_float16(y)
            m = m.to(x.dtype)
            total = total + (torch.pow(y - x, 2) * m[:, None]).sum() / m.sum()
        return total

    @staticmethod
    def head(student, teacher, masks):
        total = 0.0
        for s, t, m in zip(student, teacher, masks, strict=True):
            p, q = _without_float16(s).sigmoid(), _without_float16(t).sigmoid()
            m = m.to(p.dtype)
            total = total + (F.binary_cross_entropy(p, q, reduction="none") * m[:, None]).sum() / m.sum()
        return total

    @staticmethod
    def loss(student_feats, teacher_feats, student_logits, teacher_logits):
        feature = head = 0.0
        for x, y, s, t in zip(student_feats, teacher_feats, student_logits, teacher_logits, strict=True):
            x, y, p, q = (
                _without_float16(x),
                _without_float16(y),
                _without_float16(s).sigmoid(),
                _without_float16(t).sigmoid(),
            )
            m = q.max(dim=1).values.detach()
            squared = torch.pow(y - x, 2)
            entropy = F.binary_cross_entropy(p, q, reduction="none")
            feature = feature + (squared * m[:, None]).sum() / m.sum()
            head = head + (entropy * m[:, None]).sum() / m.sum()
        return feature + head

    @staticmethod
    def kl(op, student, teacher, weights, options):
        return divergences.OFFICIAL[op](student, teacher, weights, **options)


class Best:
    """The leanest eager formulation: BCE of logits; channels are summed before the mask is applied."""

    @staticmethod
    def mask(teacher_logits):
        return [t.amax(dim=1).float().sigmoid() for t in teacher_logits]

    @staticmethod
    def imitation(student, teacher, masks):
        total = 0.0
        for x, y, m in zip(student, teacher, masks, strict=True):
            total = total + (m * (x - y).square().sum(dim=1, dtype=torch.float32)).sum() / m.sum()
        return total

    @staticmethod
    def head(student, teacher, masks):
        total = 0.0
        for s, t, m in zip(student, teacher, masks, strict=True):
            entropy = F.binary_cross_entropy_with_logits(s, t.sigmoid(), reduction="none")
            total = total + (m * entropy.sum(dim=1, dtype=torch.float32)).sum() / m.sum()
        return total

    @staticmethod
    def loss(student_feats, teacher_feats, student_logits, teacher_logits):
        masks = Best.mask(teacher_logits)
        feature = Best.imitation(student_feats, teacher_feats, masks)
        return feature + Best.head(student_logits, teacher_logits, masks)

    @staticmethod
    def kl(op, student, teacher, weights, options):
        return divergences.best(student, teacher, weights, **options)


def _without_float16(tensor):
    return tensor.float() if tensor.dtype == torch.float16 else tensor


class Fused:
    """This project's public functions with one backend."""

    def __init__(self, backend: str):
        self.backend = backend

    def mask(self, teacher_logits):
        return frs.frs_mask(teacher_logits, backend=self.backend)

    def imitation(self, student, teacher, masks):
        return frs.weighted_mse(student, teacher, masks, backend=self.backend)

    def head(self, student, teacher, masks):
        return frs.weighted_bce(student, teacher, masks, backend=self.backend)

    def loss(self, student_feats, teacher_feats, student_logits, teacher_logits, masks=None):
        return frs.frs_loss(
            student_feats, teacher_feats, student_logits=student_logits, teacher_logits=teacher_logits,
            masks=masks, backend=self.backend,
        ).total  # fmt: skip

    def kl(self, op, student, teacher, weights, options):
        return frs.weighted_kl(student, teacher, weights or None, backend=self.backend, **options)


def _over_lists(formulation, case: Case) -> Callable:
    """The operation as a function of all five lists, some of which it may not need."""
    op = case.op
    options = case.kl_options if op in KL_OPS else {}

    def call(x, y, s, t, m):
        if options:
            return formulation.kl(op, x or s, y or t, m, options)
        if op == "mask":
            return formulation.mask(t)
        if op == "imitation":
            return formulation.imitation(x, y, m)
        if op == "head":
            return formulation.head(s, t, m)
        if op == "loss":
            return formulation.loss(x, y, s, t)
        if isinstance(formulation, Fused):
            return formulation.loss(x, y, s, t, m)
        return formulation.imitation(x, y, m) + formulation.head(s, t, m)

    return call


@dataclass(frozen=True)
class Provider:
    """A column of the tables.

    Attributes:
        compile_mode: the mode of torch.compile; None for a provider that is not compiled.
    """

    name: str
    formulation: object
    compile_mode: str | None = None

    @property
    def is_fused(self) -> bool:
        return isinstance(self.formulation, Fused)

    def build(self, case: Case) -> Callable:
        """The function to time. Its first call compiles it, if it is compiled."""
        function = _over_lists(self.formulation, case)
        if self.compile_mode is None:
            return function
        return torch.compile(function, mode=self.compile_mode, fullgraph=True, dynamic=False)

    def unavailable(self, device: str, op: str = "loss") -> str | None:
        """Why it cannot run the operation on the device, or None."""
        if not self.is_fused:
            return None
        backend = self.formulation.backend
        if backend == "triton" and device == "cpu":
            return "Triton's CPU interpreter is for tests, not for timing"
        if device not in dispatch.PREFERENCE or backend not in dispatch.PREFERENCE[device]:
            return f"{backend} has no kernels for {device}"
        probe = torch.zeros((1, 1, 1, 1), device=device)
        is_kl = op in KL_OPS
        inputs = KLInputs([probe], [probe]) if is_kl else LossInputs(teacher_logits=[probe])
        return dispatch.why_not(backend, inputs)


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("official", Official),
        Provider("best-eager", Best),
        Provider("compile-official", Official, "default"),
        Provider("compile-best", Best, "default"),
        Provider("compile-official-max", Official, "max-autotune"),
        Provider("compile-best-max", Best, "max-autotune"),
        Provider("triton", Fused("triton")),
        Provider("native", Fused("native")),
    )
}
EAGER = ("official", "best-eager")
COMPILED = ("compile-official", "compile-best")
MAX_AUTOTUNE = ("compile-official-max", "compile-best-max")
FUSED = ("native", "triton")
