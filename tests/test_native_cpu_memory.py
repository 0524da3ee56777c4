"""Memory of the compiled CPU kernels' gradients: its peak, what the pool keeps, and a fork."""

import ctypes
import os
from pathlib import Path

import programs
import pytest
import torch
from cpu_calls import MEBIBYTE, bits, grad_bytes, large_call, make_call, run

import frs_kernels
from benchmarks import memory
from frs_kernels.library import load_native

pytestmark = pytest.mark.skipif(load_native("cpu") is not None, reason=str(load_native("cpu")))

# The pool of gradients needs torch_from_blob. Without it they come from malloc, whose heap has gaps.
HAS_POOL = torch.__version__ >= (2, 11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_peak_memory_is_the_gradients_and_a_twentieth_at_most(dtype, layout):
    call = make_call(dtype, layout, batch=1, sizes=[(100, 168), (50, 84)], logits=360, channels=128)
    leaves = [t.requires_grad_() for t in call["student_feats"] + call["student_logits"]]

    def step():
        frs_kernels.frs_loss(**call, backend="native").total.backward()
        for leaf in leaves:
            leaf.grad = None

    step()
    peaks = [memory.peak_added(step, "cpu") for _ in range(3)]
    if None in peaks:
        pytest.skip("this kernel does not let a process reset its memory's high-water mark")
    peak = min(peaks)  # what else the process does adds to some of them
    gradients = sum(t.nbytes for t in leaves)
    assert 0.95 * gradients < peak < (1.05 if HAS_POOL else 1.15) * gradients + MEBIBYTE


def mapped_bytes():
    """Anonymous memory of this process, resident or not."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmData:")[1].split()[0]) * 1024


@pytest.fixture
def release():
    """Frees the memory that the pool of gradients keeps: before the test, after it, and on every call."""
    function = ctypes.CDLL(
        str(Path(frs_kernels.__file__).with_name("_native_cpu.so"))
    ).frs_release_gradient_memory
    function()
    yield function
    function()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.skipif(not HAS_POOL, reason="torch_from_blob came with torch 2.11")
def test_kept_gradient_memory_is_bounded(release):
    calls = {height: large_call(height) for height in (128, 136, 64)}
    run(calls[64])
    release()
    before = mapped_bytes()
    for height in (128, 136, 128, 64):
        for _ in range(3):
            run(calls[height])
        assert mapped_bytes() - before < grad_bytes(height) + 4 * MEBIBYTE
    held = [run(calls[128]) for _ in range(5)]
    del held
    assert mapped_bytes() - before < grad_bytes(128) + 4 * MEBIBYTE
    release()
    assert mapped_bytes() - before < 4 * MEBIBYTE


def test_pooled_gradients_are_right_when_their_memory_is_used_again(release):
    call = large_call(64)
    first = run(call)
    kept = bits(first)
    del first
    for _ in range(3):
        again = run(call)
        assert all(torch.equal(a, b) for a, b in zip(kept, bits(again), strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_gradients_survive_a_fork():
    """A child may use and free what it inherited; the parent's values stay."""
    assert programs.output("fork_with_gradients.py") == "child: same bits\nparent: same bits\n"
