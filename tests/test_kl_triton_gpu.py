"""weighted_kl on a GPU: graph capture, streams, no synchronization, memory, equal bits.

tests/test_kl_triton.py has its shapes, and tensors of more than 2^31 elements.
"""

import pytest
import torch
from cases import INTERPRETED
from gpu_cases import RETINANET, captured, results_in_streams
from kl_cases import arguments

import frs_kernels as frs

if INTERPRETED or not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU and no interpreter", allow_module_level=True)
pytest.importorskip("triton", reason="needs triton")

pytestmark = pytest.mark.gpu
OVER = pytest.mark.parametrize("over", ["channels", "locations"])


class Problem:
    """The edges of a GFL's boxes over channels, or features over locations."""

    def __init__(self, over, sizes=RETINANET[1:], **options):
        self.levels = arguments(68, over=over, sizes=sizes, device="cuda", **options)
        for student in self.levels["student"]:
            student.requires_grad_()
        self.scale = torch.ones((), device="cuda")
        self.options = {"over": over, "groups": 4 if over == "channels" else 1, "backend": "triton"}

    def step(self):
        """The loss and its gradients."""
        loss = frs.weighted_kl(**self.levels, scale=self.scale, **self.options)
        return [loss.detach(), *torch.autograd.grad(loss, self.levels["student"])]


def assert_same_bits(results, expected):
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@OVER
def test_capture_and_replay_follow_the_inputs(over):
    problem = Problem(over)
    graph, results = captured(problem.step)
    for factor in (0.5, 2.0):
        with torch.no_grad():
            problem.scale.fill_(factor)
            for levels in problem.levels.values():
                for level in levels:
                    level.mul_(factor)
        graph.replay()
        assert_same_bits(results, problem.step())


@OVER
def test_same_bits_run_after_run(over):
    problem = Problem(over, dtype=torch.bfloat16, batch=4)
    first = problem.step()
    for _ in range(10):
        assert_same_bits(problem.step(), first)


@OVER
def test_no_sync_in_forward_and_backward(over):
    problem = Problem(over)
    problem.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        problem.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@OVER
def test_concurrent_streams_do_not_meet(over):
    problems = [Problem(over, batch=2 + i) for i in range(4)]
    expected = [problem.step() for problem in problems]
    results = results_in_streams([problem.step for problem in problems])
    for of_problem, wanted in zip(results, expected, strict=True):
        for result in of_problem:
            assert_same_bits(result, wanted)


@OVER
def test_memory_above_the_gradients_is_small(over):
    problem = Problem(over, sizes=RETINANET, dtype=torch.bfloat16, batch=8)
    problem.step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    problem.step()
    gradients = sum(t.numel() * t.element_size() for t in problem.levels["student"])
    assert torch.cuda.max_memory_allocated() - before <= 1.02 * gradients
