"""What only the compiled CPU kernels promise: instruction sets, threads, stacks and conversions."""

import threading
from concurrent.futures import ThreadPoolExecutor

import programs
import pytest
import torch
from cpu_calls import bits, check_large_gradients, check_special_values, large_call, make_call, run

import frs_kernels
from frs_kernels.library import load_native

host = pytest.importorskip("frs_kernels._host", reason="_host is not built")
pytestmark = pytest.mark.skipif(load_native("cpu") is not None, reason=str(load_native("cpu")))


def per_level_and_image(call):
    """Losses and scaled gradients of the operators, with given masks, in two passes, and in a single pass."""
    tensors = call["student_feats"], call["teacher_feats"], call["student_logits"], call["teacher_logits"]
    masks = [torch.full_like(level[:, 0], 0.5, dtype=torch.float32) for level in call["teacher_logits"]]
    numbers = 0, 1.0, None, 1.0, None, 1.0, None, 0.0
    results = []
    for given, grads in ((masks, True), ([], True), ([], False)):
        losses, level_losses, _, feat_grads, logit_grads = torch.ops.frs_kernels.loss(
            *tensors, given, [], *numbers, grads, grads, True
        )
        factors = torch.arange(1.0, 1.0 + losses.shape[1])
        pending = torch.ones(len(masks))
        torch.ops.frs_kernels.scale_(feat_grads, factors, pending[: len(feat_grads)])
        torch.ops.frs_kernels.scale_(logit_grads, factors, pending[: len(logit_grads)])
        results += [losses, level_losses, *feat_grads, *logit_grads]
    return results


def results_of(call):
    """The bits of everything that the operators return for a call."""
    spanning = {"normalizer": "mask_all_levels"}
    with torch.no_grad():
        singles = [
            frs_kernels.frs_loss(**call, backend="native", **options).total for options in ({}, spanning)
        ]
        masks = frs_kernels.frs_mask(call["teacher_logits"], backend="native")
    return bits([*run(call), *run(call, **spanning), *singles, *masks, *per_level_and_image(call)])


def equal(tensors, others):
    return all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))


@pytest.fixture
def with_threads():
    """Calls a function with a number of torch's threads, more than there are cores too."""
    before = torch.get_num_threads()

    def run_with(threads, function, *arguments):
        torch.set_num_threads(threads)
        return function(*arguments)

    yield run_with
    torch.set_num_threads(before)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_with_any_number_of_threads(with_threads, dtype, layout):
    call = make_call(
        dtype, layout, sizes=[(100, 230), (50, 45), (7, 7)], logits=130
    )  # several tasks per level
    alone = with_threads(1, results_of, call)
    for threads in (2, 3, 8):
        assert equal(with_threads(threads, results_of, call), alone)
    with torch.no_grad():
        doubled = {name: [t.double() for t in levels] for name, levels in call.items()}
        exact = frs_kernels.frs_loss(**doubled, backend="eager").total
        single = frs_kernels.frs_loss(**call, backend="native").total
    torch.testing.assert_close(single.double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(run(call)[0].double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_with_many_threads(with_threads, dtype, layout):
    call = make_call(dtype, layout, sizes=[(100, 230), (50, 45), (7, 7)], logits=130)
    alone = with_threads(1, results_of, call)
    for threads in (64, 192):
        assert equal(with_threads(threads, results_of, call), alone)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("sizes", [[(40, 13)], [(3, 5)] * 16, [(1, 1), (30, 30), (2, 1)]])
def test_more_threads_than_tasks(with_threads, sizes, layout):
    """Most threads find no task, or wait for the mask of a level that one other thread computes."""
    call = make_call(layout=layout, sizes=sizes, logits=130, channels=3)
    alone = with_threads(1, results_of, call)
    for threads in (8, 64, 192):
        for _ in range(5):
            assert equal(with_threads(threads, results_of, call), alone)


def test_threads_that_call_at_once():
    """Each has tensors of its own, and a share of torch's threads; they share the pool of gradients."""
    calls = [large_call(64), make_call(sizes=[(100, 90), (7, 7)], logits=130)]
    expected = [bits(run(call)) for call in calls]
    barrier = threading.Barrier(len(calls))

    def repeat(call):
        torch.set_num_threads(2)
        barrier.wait(timeout=60)
        return [bits(run(call)) for _ in range(4)]

    with ThreadPoolExecutor(len(calls)) as pool:
        for results, alone in zip(pool.map(repeat, calls), expected, strict=True):
            for result in results:
                assert equal(result, alone)


@pytest.mark.parametrize("isa", host.instruction_sets())
def test_every_instruction_set_is_right(isa):
    assert programs.output("check_instruction_set.py", isa, ATEN_CPU_CAPABILITY=isa) == f"{isa}: right\n"


def test_special_values():
    check_special_values()


def test_large_gradients():
    check_large_gradients()


def test_half_precision_is_converted_as_torch_converts_it():
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        values = every.view(dtype)
        values = values[values.isfinite()].reshape(1, 1, 1, -1)
        (mask,) = frs_kernels.frs_mask([values], backend="native")
        torch.testing.assert_close(mask, values.float().sigmoid()[0], rtol=1e-6, atol=1.2e-38)
        student = values.clone().requires_grad_()
        teacher = torch.zeros_like(values)
        scale = 0.37  # products with it have to be rounded; the normalizer 1 keeps it in the gradient
        mask = torch.full((1, 1, values.shape[-1]), scale)
        loss = frs_kernels.weighted_mse(student, teacher, mask, normalizer=1.0, backend="native")
        loss.backward()
        assert torch.equal(student.grad, (2 * torch.tensor(scale) * values.float()).to(dtype))


def test_a_thread_with_a_small_stack():
    """The kernels keep their state off the stack: threads with 256 KiB of stack are common in servers."""
    assert programs.output("small_stack.py") == "done\n"
