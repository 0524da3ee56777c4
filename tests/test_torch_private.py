"""What is private to torch: used in one module, and nothing is wrong in a release that lacks it."""

import ast
import sys

import imports
import programs
import pytest
import torch
from cases import INTERPRETED, evaluate
from loss_cases import WRT, arguments
from test_transforms import AUTO, EAGER, FUSED, STUDENT, TANGENT, functions

import frs_kernels as frs
from frs_kernels import torch_private

SOURCES = {
    name: path for package in ("frs_kernels", "frs_train") for name, path in imports.modules(package).items()
}
# Private names that belong to Python, to the packages themselves, to Triton, Ultralytics and torchvision.
OTHERS = {
    "_replace", "_fields", "_exit", "_patch_lang", "_patch_lang_tensor", "_setup_train", "_student_feats",
    "_teacher_feats", "_mobilenet_v3_conf", "_loss_type",
}  # fmt: skip
# Documented, in spite of its name; and overridden, see the docstring of torch_private.
ALLOWED = {"torch._check", "self.teacher._apply", "super()._apply"}


def private(source: str) -> set[str]:
    """The private names of other modules that a source uses, as it spells them."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in OTHERS:
            if ast.unparse(node.value) not in ("self", "cls"):
                names.add(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("torch.")}
    return {name for name in names if any(map(is_private, name.split(".")))} - ALLOWED


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("module", [name for name in SOURCES if name != "frs_kernels.torch_private"])
def test_no_other_module_uses_what_is_private_to_torch(module):
    assert private(SOURCES[module].read_text()) == set()


@pytest.mark.parametrize(
    "source",
    [
        "torch._C._are_functorch_transforms_active()",
        "from torch.utils import _pytree",
        "from torch._inductor.ir import DonatedBuffer",
        "import torch._dynamo",
        "forward_ad._current_level",
        "function._dynamo_marked_constant = True",
        "list(loader)._workers",
    ],
)
def test_the_test_finds_what_is_private(source):
    assert private(source)


def test_a_missing_name_is_found_to_be_missing():
    assert torch_private._found("_C", "_autograd") is torch._C._autograd
    assert torch_private._found("_C", "_nothing", "_more") is None


# A release without one of the names.
TRANSFORMS = FUSED | EAGER


def agrees_with_eager(backend: str, base: dict) -> list[torch.Tensor]:
    """The gradients of a loss; asserts that they and the losses are eager's."""
    losses, grads = evaluate(frs.frs_loss, base, WRT, backend=backend)
    expected, expected_grads = evaluate(frs.frs_loss, base, WRT, backend="eager")
    torch.testing.assert_close(tuple(losses), tuple(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-6)
    return grads


@pytest.mark.parametrize("name", ["_keeps_graph", "_transforms_are_active", "_has_level"])
def test_losses_and_gradients_are_right_without(target, name, monkeypatch):
    base = arguments(device=target.device)
    with_it = agrees_with_eager(target.backend, base)
    monkeypatch.setattr(torch_private, name, None)
    without = agrees_with_eager(target.backend, base)
    assert all(map(torch.equal, with_it, without))
    assert frs.explain_backend(**base).chosen != "eager"


def test_a_second_backward_is_right_without_the_graphs_flag(target, monkeypatch):
    monkeypatch.setattr(torch_private, "_keeps_graph", None)
    base = arguments(device=target.device)
    leaf = base["student_feats"][0].requires_grad_()
    loss = frs.frs_loss(**base, backend=target.backend).total
    (first,) = torch.autograd.grad(3 * loss, leaf, retain_graph=True)
    (second,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(first, 3 * second)


@pytest.mark.parametrize("missing", ["_transforms_are_active", "_has_level", "_functorch"])
@pytest.mark.parametrize("name", ["mse", "loss", "none"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_are_right_without(target, missing, name, transform, monkeypatch):
    x, v = STUDENT.to(target.device), TANGENT.to(target.device)
    auto, plain = (functions(backend, target.device)[name] for backend in (AUTO, "eager"))
    expected = TRANSFORMS[transform](plain, x, v)
    monkeypatch.setattr(torch_private, missing, None)
    torch.testing.assert_close(TRANSFORMS[transform](auto, x, v), expected)


@pytest.mark.parametrize("missing", ["_functorch", "_keeps_graph"])
def test_batched_gradients_are_right_without(target, missing, monkeypatch):
    monkeypatch.setattr(torch_private, missing, None)
    base = arguments(device=target.device)
    leaf = base["student_feats"][0].requires_grad_()
    loss = frs.frs_loss(**base, backend=target.backend).total
    factors = torch.tensor([1.0, -2.0], device=target.device)
    (several,) = torch.autograd.grad(loss, leaf, factors, is_grads_batched=True, retain_graph=True)
    (one,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(several, torch.stack([one, -2 * one]))


@pytest.mark.parametrize("missing", ["mark", "inductor", "transforms"])
def test_compiled_losses_are_right_without(missing):
    if INTERPRETED:
        pytest.skip("compiles for the CPU")
    assert "agree" in programs.output("compile_without.py", missing)


def test_inductor_without_a_part_is_none(monkeypatch):
    assert torch_private.inductor().DonatedBuffer
    monkeypatch.setitem(sys.modules, "torch._inductor.virtualized", None)
    assert torch_private.inductor() is None


def test_an_iterator_without_private_names_has_no_processes():
    assert torch_private.end_loading(iter([])) == []
