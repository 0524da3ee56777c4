"""The losses under torch.compile: one graph, eager's bits, and a backward that allocates nothing."""

import re

import pytest
import torch
from cases import evaluate
from loss_cases import WRT, arguments
from torch._inductor.utils import run_fw_bw_and_get_code

import frs_kernels as frs
from frs_kernels import dispatch
from frs_kernels.inductor import register_scaled_lowering

pytestmark = pytest.mark.slow_interpreted
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
