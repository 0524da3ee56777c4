"""The losses under torch.compile: one graph, eager's bits, and a backward that allocates nothing."""

import re

import pytest
import torch
from cases import INTERPRETED, evaluate, fields, term
from loss_cases import WRT, arguments
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import run_fw_bw_and_get_code

import frs_kernels as frs
from frs_kernels import dispatch
from frs_kernels.inductor import register_scaled_lowering

pytestmark = pytest.mark.slow_interpreted
# Once a graph takes any number and size, more of them show nothing new, and the interpreter is slow.
STEPS, IMAGE_SIZES = (5, 4) if INTERPRETED else (20, 12)
ALLOCATION = re.compile(r"= empty_strided\w*\(")


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()


def total(**arguments):
    return frs.frs_loss(**arguments).total


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_compiles_into_one_graph(target, dtype, layout):
    base = arguments(dtype=dtype, layout=layout, device=target.device)
    scale = torch.tensor(0.5, device=target.device)

    def around(student_feats, **others):
        return 3 * total(student_feats=[x * 1.5 for x in student_feats], feat_weight=scale, **others)

    compiled = torch.compile(around, fullgraph=True)
    expected, expected_grads = evaluate(around, base, WRT, backend=target.backend)
    actual, grads = evaluate(compiled, base, WRT, backend=target.backend)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(grads, expected_grads)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_compiled_backward_works_in_place(target, dtype, layout):
    base = arguments(dtype=dtype, layout=layout, device=target.device)
    expected, expected_grads = evaluate(total, base, WRT, upstream=3, backend=target.backend)
    leaves = {n: [t.detach().requires_grad_(n in WRT) for t in levels] for n, levels in base.items()}
    compiled = torch.compile(total, fullgraph=True)
    _, (forward, backward) = run_fw_bw_and_get_code(lambda: 3 * compiled(**leaves, backend=target.backend))
    grads = [leaf.grad for name in WRT for leaf in leaves[name]]
    assert all(map(torch.equal, grads, expected_grads))
    assert backward.count(".scale_.default(") == len(WRT) and forward.count(".loss.default(") == 1
    for other in (".scaled.default(", "async_compile.triton(", "async_compile.cpp"):
        assert other not in backward
    assert not ALLOCATION.search(backward) and ALLOCATION.search("buf0 = empty_strided_cuda((1, ), (1, ))")


def test_a_gradient_that_something_else_reads_stays_as_it_is(target):
    """The compiler must not write to tensors that a caller passes."""
    grads = [torch.rand(3, 4, device=target.device) for _ in range(2)]
    factor, pending = torch.tensor(0.5, device=target.device), torch.ones(2, device=target.device)
    operators = dispatch.load(target.backend).namespace()
    register_scaled_lowering(operators.name)

    @torch.compile(fullgraph=True)
    def sums(given):
        return [a + b for a, b in zip(operators.scaled(given, factor, pending), given, strict=True)]

    before = [grad.clone() for grad in grads]
    assert all(map(torch.equal, sums(grads), [1.5 * grad for grad in before]))
    assert all(map(torch.equal, grads, before))


@pytest.mark.parametrize("mode", ["aot_eager", "inductor"])
@torch._functorch.config.patch(donated_buffer=False)
def test_compiled_backward_of_a_retained_graph(target, mode):
    """torch refuses it while it donates buffers; without donation the stored gradients stay intact."""
    base = arguments(dtype=torch.float16, device=target.device)
    leaf = base["student_logits"][0].requires_grad_()
    loss = torch.compile(total, backend=mode, fullgraph=True)(**base, backend=target.backend)
    (first,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, leaf)
    assert torch.equal(first, kept) and torch.equal(second, kept)
    assert first.data_ptr() != second.data_ptr()


def test_cuda_graphs_of_a_compiled_step(target):
    """A recorded backward writes to memory of the recorded forward, which every replay fills."""
    if target.device != "cuda":
        pytest.skip("CUDA graphs need a GPU")
    compiled = torch.compile(total, fullgraph=True, mode="reduce-overhead")
    for seed in range(5):  # warm-up, recording and replays
        base = {n: [t * (seed + 1) for t in levels] for n, levels in arguments(device="cuda").items()}
        torch.compiler.cudagraph_mark_step_begin()
        _, grads = evaluate(compiled, base, WRT, upstream=3, backend=target.backend)
        grads = [grad.clone() for grad in grads]
        _, expected = evaluate(total, base, WRT, upstream=3, backend=target.backend)
        assert all(map(torch.equal, grads, expected))


def leaves_of(base):
    return {n: [t.detach().requires_grad_(n in WRT) for t in levels] for n, levels in base.items()}


@pytest.mark.parametrize("name", ["feat_weight", "head_weight", "normalizer"])
def test_changing_numbers_compile_again_once(target, name):
    """TorchDynamo takes a number for a constant until it changes, and never again."""
    base = leaves_of(arguments(sizes=((5, 7), (3, 4)), device=target.device))
    for backend in (target.backend, "eager"):
        torch.compiler.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(frs.frs_loss, backend=counter, fullgraph=True)
        for step in range(STEPS):
            options = {name: 0.1 + step / 8, "backend": backend}
            actual, expected = compiled(**base, **options), frs.frs_loss(**base, **options)
            torch.testing.assert_close(actual.total, expected.total, rtol=1e-6, atol=0)
            actual.total.backward()
        assert counter.frame_count <= 2


def test_changing_scales_of_masks_compile_again_once(target):
    base = arguments(sizes=((5, 7),), device=target.device)
    masks = [torch.rand(2, 5, 7, device=target.device) for _ in range(2)]
    student = base["student_feats"][0].requires_grad_()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(frs.weighted_mse, backend=counter, fullgraph=True)
    for step in range(STEPS):
        scale = 0.1 + step / 8
        options = {"mask_sets": masks, "scale": [scale, 2.0], "normalizer": [3.0, 4 * scale]}
        actual, expected = (
            function(student, base["teacher_feats"][0], **options, backend=target.backend)
            for function in (compiled, frs.weighted_mse)
        )
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_image_sizes_compile_twice_at_most(target, layout):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(frs.frs_loss, backend=counter, fullgraph=True)
    for i in range(IMAGE_SIZES):
        sizes = ((16 + 2 * i, 20 + 4 * i), (8 + i, 10 + 2 * i))
        base = leaves_of(arguments(sizes=sizes, layout=layout, device=target.device))
        actual = compiled(**base, backend=target.backend)
        assert torch.equal(actual.total, frs.frs_loss(**base, backend=target.backend).total)
        actual.total.backward()
    assert counter.frame_count <= 2


@pytest.mark.parametrize("normalizer", ["mask", "mask_all_levels"])
@pytest.mark.parametrize("mode", ["aot_eager", "inductor"])
def test_the_result_has_its_class_and_the_bits_of_eager_execution(target, mode, normalizer):
    base = leaves_of(arguments(sizes=((5, 7), (3, 4)), device=target.device))
    compiled = torch.compile(frs.frs_loss, backend=mode, fullgraph=True)
    options = {"feat_weight": 0.3, "normalizer": normalizer, "backend": target.backend}
    actual, expected = compiled(**base, **options), frs.frs_loss(**base, **options)
    assert type(actual) is frs.FRSLossOutput
    assert all(map(torch.equal, fields(actual), fields(expected)))
    assert actual.scalars() == expected.scalars()


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_every_reduction_compiles(target, reduction):
    base = term(("student_feats", "teacher_feats"), sizes=((5, 7), (3, 4)), device=target.device)
    upstream = torch.tensor([1.0, -3.0], device=target.device) if reduction == "none" else 2.0
    channel_weights = torch.rand(2, 12, device=target.device)
    options = {"reduction": reduction, "channel_weights": channel_weights, "backend": target.backend}
    plain, compiled = (
        evaluate(function, base, ("student_feats",), upstream, **options)
        for function in (frs.weighted_mse, torch.compile(frs.weighted_mse, fullgraph=True))
    )
    assert torch.equal(plain[0][0], compiled[0][0]) and all(map(torch.equal, plain[1], compiled[1]))


def test_the_module_compiles_once_during_its_warmup(target):
    module = frs.FRSDistillationLoss(8, 8, num_levels=2, warmup_iters=10, backend=target.backend)
    module.to(target.device).set_step(0)
    base = arguments(sizes=((5, 7), (3, 4)), device=target.device)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    for step in range(12):
        module.set_step(step)
        loss = compiled(**base)
        assert torch.equal(loss.total, module(**base).total)
        loss.total.backward()
    assert counter.frame_count == 1


def test_constants_made_in_inference_mode(target):
    base = leaves_of(arguments(sizes=((5, 7), (3, 4)), device=target.device))
    with torch.inference_mode():
        for name in ("teacher_feats", "teacher_logits"):
            base[name] = [t.clone() for t in base[name]]
        scale = torch.tensor(0.5, device=target.device)
    compiled = torch.compile(frs.frs_loss, fullgraph=True)
    options = {"feat_weight": scale, "normalizer": scale, "backend": target.backend}
    loss = compiled(**base, **options)
    loss.total.backward()
    assert torch.equal(loss.total, frs.frs_loss(**base, **options).total)


def test_torch_func_inside_compile_takes_eager(target):
    base = term(("student", "teacher"), sizes=((5, 7),), device=target.device)
    (student,), (teacher,), (mask,) = base.values()

    def gradient(backend):
        return torch.func.grad(lambda x: frs.weighted_mse(x, teacher, mask, backend=backend))

    expected = gradient("eager")(student)
    torch.testing.assert_close(torch.compile(gradient("auto"), backend="aot_eager")(student), expected)
    with pytest.raises(Exception, match="only eager"):
        torch.compile(gradient(target.backend), backend="aot_eager", fullgraph=True)(student)
