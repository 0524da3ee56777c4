"""weighted_kl in graphs: torch.compile makes one, with a backward in place; torch.export; torch.jit.trace."""

import io
import re

import pytest
import torch
from cases import INTERPRETED, evaluate
from kl_cases import WRT, arguments
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import run_fw_bw_and_get_code

import frs_kernels as frs

pytestmark = [
    pytest.mark.usefixtures("has_kl"),
    pytest.mark.slow_interpreted,
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning"),
]
OVER = ("channels", "locations")
SMALL = ((5, 7), (3, 4))
STEPS = 4 if INTERPRETED else 10
ALLOCATION = re.compile(r"= empty_strided\w*\(")


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()


def leaves_of(base: dict) -> dict:
    """The arguments with students that require gradients."""
    return {n: [t.detach().requires_grad_(n in WRT) for t in levels] for n, levels in base.items()}


@pytest.mark.parametrize("dtype, over", [(torch.float32, "channels"), (torch.float16, "locations")], ids=str)
def test_compiles_into_one_graph(target, dtype, over):
    """With operations before and after, and a scale on the device."""
    base = arguments(dtype=dtype, over=over, sizes=SMALL, device=target.device)
    options = {"over": over, "scale": torch.tensor(0.5, device=target.device), "backend": target.backend}

    def around(student, **others):
        return 3 * frs.weighted_kl([x * 1.5 for x in student], temperature=2.0, **others)

    expected, expected_grads = evaluate(around, base, WRT, **options)
    actual, grads = evaluate(torch.compile(around, fullgraph=True), base, WRT, **options)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(grads, expected_grads)


@pytest.mark.parametrize("over, layout", [("channels", "channels_last"), ("locations", "nchw")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_compiled_backward_works_in_place(target, dtype, over, layout):
    base = arguments(dtype=dtype, layout=layout, over=over, device=target.device)
    options = {"over": over, "backend": target.backend}
    _, expected_grads = evaluate(frs.weighted_kl, base, WRT, upstream=3, **options)
    leaves = leaves_of(base)
    compiled = torch.compile(frs.weighted_kl, fullgraph=True)
    _, (forward, backward) = run_fw_bw_and_get_code(lambda: 3 * compiled(**leaves, **options))
    assert all(torch.equal(s.grad, g) for s, g in zip(leaves["student"], expected_grads, strict=True))
    assert backward.count(".scale_.default(") == 1 and forward.count(".kl.default(") == 1
    for other in (".scaled.default(", "async_compile.triton(", "async_compile.cpp"):
        assert other not in backward
    assert not ALLOCATION.search(backward)


@pytest.mark.parametrize("mode", ["aot_eager", "inductor"])
@torch._functorch.config.patch(donated_buffer=False)
def test_compiled_backward_of_a_retained_graph(target, mode):
    """torch refuses it while it donates buffers; without donation the stored gradients stay intact."""
    base = leaves_of(arguments(sizes=SMALL, dtype=torch.float16, device=target.device))
    loss = torch.compile(frs.weighted_kl, backend=mode, fullgraph=True)(**base, backend=target.backend)
    first = torch.autograd.grad(loss, base["student"], retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    second = torch.autograd.grad(loss, base["student"])
    assert all(map(torch.equal, first, kept)) and all(map(torch.equal, second, kept))


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_every_reduction_has_the_bits_of_eager_execution(target, reduction):
    base = arguments(sizes=SMALL, device=target.device)
    upstream = torch.tensor([1.0, -3.0], device=target.device) if reduction == "none" else 2.0
    options = {
        "reduction": reduction,
        "groups": 3,
        "normalizer": "mask_all_levels",
        "backend": target.backend,
    }
    plain, compiled = (
        evaluate(function, base, WRT, upstream, **options)
        for function in (frs.weighted_kl, torch.compile(frs.weighted_kl, fullgraph=True))
    )
    assert torch.equal(plain[0][0], compiled[0][0]) and all(map(torch.equal, plain[1], compiled[1]))


@pytest.mark.parametrize("name", ["scale", "normalizer"])
def test_changing_numbers_compile_again_once(target, name):
    """TorchDynamo takes a number for a constant until it changes, and never again."""
    base = leaves_of(arguments(sizes=SMALL, device=target.device))
    for backend in (target.backend, "eager"):
        torch.compiler.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(frs.weighted_kl, backend=counter, fullgraph=True)
        for step in range(STEPS):
            options = {name: 0.1 + step / 8, "backend": backend}
            actual, expected = compiled(**base, **options), frs.weighted_kl(**base, **options)
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
            actual.backward()
        assert counter.frame_count <= 2


@pytest.mark.parametrize(
    "over, layout", [("channels", "nchw"), ("channels", "channels_last"), ("locations", "nchw")]
)
def test_image_sizes_compile_twice_at_most(target, over, layout):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(frs.weighted_kl, backend=counter, fullgraph=True)
    options = {"over": over, "backend": target.backend}
    for i in range(STEPS):
        sizes = ((16 + 2 * i, 20 + 4 * i), (8 + i, 10 + 2 * i))
        base = leaves_of(arguments(sizes=sizes, layout=layout, over=over, device=target.device))
        actual = compiled(**base, **options)
        assert torch.equal(actual, frs.weighted_kl(**base, **options))
        actual.backward()
    assert counter.frame_count <= 2


def test_torch_func_inside_compile_takes_eager(target):
    (x, _), (y, _), _ = arguments(sizes=SMALL, device=target.device).values()

    def gradient(backend):
        return torch.func.grad(lambda s: frs.weighted_kl(s, y, backend=backend))

    expected = gradient("eager")(x)
    torch.testing.assert_close(torch.compile(gradient("auto"), backend="aot_eager")(x), expected)
    with pytest.raises(Exception, match="only eager"):
        torch.compile(gradient(target.backend), backend="aot_eager", fullgraph=True)(x)


class Distillation(torch.nn.Module):
    """The loss with a convolution in front."""

    def __init__(self, backend: str):
        super().__init__()
        self.convolution = torch.nn.Conv2d(12, 12, 1)
        self.backend = backend

    def forward(self, student, teacher, weight):
        adapted = [self.convolution(level) for level in student]
        return frs.weighted_kl(adapted, teacher, weight, groups=4, temperature=2.0, backend=self.backend)


def inputs(target, seed_step: float = 0.0) -> tuple:
    base = arguments(sizes=SMALL, device=target.device)
    return tuple([t + seed_step * t.cos() for t in levels] for levels in base.values())


def saved_and_loaded(recorded, save, load):
    file = io.BytesIO()
    save(recorded, file)
    file.seek(0)
    return load(file)


def check_recorded(recorded, module, weight, arguments, wanted: bool) -> None:
    actual, expected = recorded(*arguments), module(*arguments)
    torch.testing.assert_close(actual, expected)
    assert actual.requires_grad == expected.requires_grad == wanted
    if wanted:
        gradients = (
            torch.autograd.grad(actual, weight),
            torch.autograd.grad(expected, module.convolution.weight),
        )
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_an_exported_module(target, wanted, strict):
    for backend in ("auto", "eager") if wanted else (target.backend, "eager"):
        module = Distillation(backend).to(target.device).requires_grad_(wanted)
        exported = torch.export.export(module, inputs(target), strict=strict)
        for program in (exported, saved_and_loaded(exported, torch.export.save, torch.export.load)):
            graph = program.module()
            check_recorded(graph, module, graph.convolution.weight, inputs(target, 0.5), wanted)


@pytest.mark.parametrize("wanted", [False, True])
def test_a_traced_module(target, wanted):
    for backend in ("auto", "eager"):
        module = Distillation(backend).to(target.device).requires_grad_(wanted)
        traced = torch.jit.trace(module, inputs(target))
        loaded = saved_and_loaded(traced, torch.jit.save, torch.jit.load)
        check_recorded(loaded, module, loaded.convolution.weight, inputs(target, 0.5), wanted)


def test_a_graph_without_the_gradients_that_are_wanted_is_refused(target):
    module = Distillation(target.backend).to(target.device)
    message = f"'{target.backend}' cannot run: only eager"
    with pytest.raises(RuntimeError, match=message):
        torch.jit.trace(module, inputs(target))
    for strict in (False, True):
        with pytest.raises(Exception, match=message):
            torch.export.export(module, inputs(target), strict=strict)
        with torch.no_grad():
            exported = torch.export.export(module, inputs(target), strict=strict)
        torch.testing.assert_close(exported.module()(*inputs(target)), module(*inputs(target)))
