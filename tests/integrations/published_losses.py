"""The table of other losses in docs/integrations.md: its calls, and what the tests of its rows share.

A test compares the call exactly as written there, and the function of the examples if there is one, with
the arithmetic of the method's own code (of the paper, where the row says so), written in eager PyTorch from
its description.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import frs_kernels as frs

DOCS = Path(__file__).parents[2] / "docs" / "integrations.md"
SIZES = [(8, 10), (4, 5), (2, 3)]

CALLS = dict(re.findall(r"^\| ([^|]+) \| `(\w+\(.+\))` \|", DOCS.read_text(), flags=re.MULTILINE))


def row(method: str) -> Callable:
    """Parametrises a test with the documented call of a method, as a function of the names in it."""
    code = compile(CALLS[method], f"{DOCS}: {method}", "eval")
    losses = ("frs_loss", "weighted_mse", "weighted_bce", "weighted_kl")
    functions = {name: getattr(frs, name) for name in losses}
    return pytest.mark.parametrize(
        "call", [lambda **names: eval(code, functions | names)], ids=["documented"]
    )


def levels(seed: int, channels: int = 12) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, *size, generator=random, dtype=torch.float64) for size in SIZES]


def pairs(*lists):
    return zip(*lists, strict=True)


def same(ours: Tensor, theirs: Tensor, student: list[Tensor], rtol: float = 1e-12) -> None:
    """Equal values, and equal gradients for the student."""
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=0)
    grads = [torch.autograd.grad(loss, student, retain_graph=True) for loss in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=rtol, atol=1e-13)
