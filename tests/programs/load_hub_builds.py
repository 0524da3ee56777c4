"""Loads builds with the package `kernels`, beside the installed package: load_hub_builds.py FOLDER...

Compares the loss and the gradients of each with eager PyTorch, called and traced by TorchDynamo, and exports
it. Prints the namespaces of their operators, one a line.
"""

import io
import sys
from pathlib import Path

import kernels
import torch
from kernels._rust import Digest  # what `kernels verify-signature` compares

import frs_kernels
import frs_kernels.library


def levels(channels: int) -> list[torch.Tensor]:
    return [torch.randn(2, channels, size, size + 1) for size in (9, 4)]


class Loss(torch.nn.Module):
    def __init__(self, frs, backend: str):
        super().__init__()
        self.frs, self.backend = frs, backend

    def forward(self, x, y, s, t):
        return self.frs.frs_loss(x, y, student_logits=s, teacher_logits=t, backend=self.backend)


def results(function, inputs) -> list[torch.Tensor]:
    """The loss of a function like ``Loss``, and its gradients."""
    x, y, s, t = inputs
    feats, logits = ([v.clone().requires_grad_() for v in tensors] for tensors in (x, s))
    total = function(feats, y, logits, t).total
    total.backward()
    return [total.detach(), *(v.grad for v in feats + logits)]


def saved_and_loaded(module, inputs):
    """The result of an exported program. It is a pytree, whose type torch looks up by its name."""
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, inputs), file)
    file.seek(0)
    return torch.export.load(file).module()(*inputs)


def load(folder: str):
    module = kernels.get_local_kernel(Path(folder), backend="cpu")
    (entry,) = (entry for entry in kernels.get_loaded_kernels() if entry.module is module)
    assert module.library.NATIVE == entry.metadata.id
    digest = entry.metadata.digest
    digest.validate(Digest.hash_variant(digest.algorithm, Path(module.__file__).parent))
    return module


torch.manual_seed(0)
inputs = levels(16), levels(16), levels(12), levels(12)
expected = results(Loss(frs_kernels, "eager"), inputs)
for frs in [frs_kernels, *map(load, sys.argv[1:])]:
    assert frs.library.load_native("cpu") is None, frs.library.load_native("cpu")
    loss = Loss(frs, "native")
    torch.testing.assert_close(results(loss, inputs), expected)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(results(compiled, inputs), expected)
    assert type(saved_and_loaded(loss, inputs)) is frs.FRSLossOutput
    print(frs.library.NATIVE)
