"""What only the compiled CPU kernels promise: instruction sets, threads, and the memory of gradients."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import frs_kernels
from benchmarks import memory
from frs_kernels.library import load_native

host = pytest.importorskip("frs_kernels._host", reason="_host is not built")
pytestmark = pytest.mark.skipif(load_native("cpu") is not None, reason=str(load_native("cpu")))

SIZES = [(24, 31), (9, 7), (1, 1)]
MEBIBYTE = 1 << 20


def make_call(
    dtype=torch.float32, layout=torch.contiguous_format, batch=2, sizes=SIZES, logits=21, channels=19
):
    """Levels (student feats, teacher feats, teacher logits, student logits) with ends of every length."""
    generator = torch.Generator().manual_seed(0)

    def levels(channels, shift):
        made = [torch.randn(batch, channels, *size, generator=generator) * 3 + shift for size in sizes]
        return [t.to(dtype).contiguous(memory_format=layout) for t in made]

    return levels(channels, 0), levels(channels, 0), levels(logits, -2), levels(logits, -2)


def run(call, backend="native", **options):
    feats, teacher_feats, teacher_logits, logits = call
    feats, logits = ([t.detach().requires_grad_() for t in levels] for levels in (feats, logits))
    loss = frs_kernels.frs_loss(feats, teacher_feats, teacher_logits, logits, backend=backend, **options)
    loss.total.backward()
    return [loss.total.detach(), *(t.grad for t in feats + logits)]


def bits(tensors):
    return [t.flatten().view(torch.uint8).clone() for t in tensors]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_with_any_number_of_threads(dtype, layout):
    call = make_call(dtype, layout, sizes=[(100, 230), (50, 45), (7, 7)], logits=130)  # no unit takes a row
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            with torch.no_grad():
                single = frs_kernels.frs_loss(*call, backend="native").total
                masks = frs_kernels.frs_mask(call[2], backend="native")
            found.append(bits([*run(call), single, *masks]))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    with torch.no_grad():
        exact = frs_kernels.frs_loss(
            *([t.double() for t in levels] for levels in call), backend="eager"
        ).total
    torch.testing.assert_close(single.double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(run(call)[0].double(), exact, rtol=1e-6, atol=0)


CHECK = """
import torch, test_native_cpu as t
import frs_kernels.reference
from frs_kernels import _host
assert _host.instruction_set() == {isa!r}, _host.instruction_set()
for dtype, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 8e-3), (torch.float16, 2e-3)):
    for layout in (torch.contiguous_format, torch.channels_last):
        call = t.make_call(dtype, layout)
        exact = t.run([[v.double() for v in levels] for levels in call], backend="eager")
        for ours, truth in zip(t.run(call), exact):
            allowed = dict(rtol=tolerance, atol=tolerance * truth.abs().max())
            torch.testing.assert_close(ours.double(), truth, **allowed)
        maps = t.frs_kernels.frs_mask(call[2], backend="native")
        for ours, truth in zip(maps, frs_kernels.reference.frs_mask([v.double() for v in call[2]])):
            torch.testing.assert_close(ours.double(), truth, rtol=1e-6, atol=0)
t.check_special_values()
t.check_large_gradients()
"""


@pytest.mark.parametrize("isa", host.instruction_sets())
def test_every_instruction_set_is_right(isa):
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHECK.format(isa=isa)]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def check_special_values():
    """NaN survives a vector maximum in every lane, and the rounding of gradients; so does infinity."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for layout in (torch.contiguous_format, torch.channels_last):
            for place in range(40):
                logits = torch.zeros(1, 40, 1, 33).to(dtype).contiguous(memory_format=layout)
                logits[0, place, 0, place % 33] = torch.nan
                (mask,) = frs_kernels.frs_mask([logits], backend="native")
                assert mask.isnan().sum() == 1 and mask[0, 0, place % 33].isnan()
            payload = torch.tensor([0x7FFFFFFF, 0x7F800001], dtype=torch.int32).view(torch.float32)
            student = torch.zeros(1, 2, 1, 1).to(dtype).requires_grad_()
            frs_kernels.weighted_bce(
                student, payload.reshape(1, 2, 1, 1), torch.ones(1, 1, 1), backend="native"
            ).backward()
            assert student.grad.isnan().all()
            student = torch.zeros(1, 40, 1, 2).to(dtype).contiguous(memory_format=layout).requires_grad_()
            weight = payload.reshape(1, 1, 2)
            frs_kernels.weighted_bce(student, student.detach(), weight, backend="native").backward()
            assert student.grad.isnan().all()
            largest = torch.finfo(dtype).max
            student = torch.full((1, 40, 1, 1), largest).to(dtype).requires_grad_()
            frs_kernels.weighted_mse(
                student, -student.detach(), torch.ones(1, 1, 1), backend="native"
            ).backward()
            assert student.grad.isinf().all()


def test_special_values():
    check_special_values()


def check_large_gradients():
    """Gradients of more than 16 MB are stored past the caches: the same bits as of each image alone."""
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            shape = (10, 40, 104, 208)
            student, teacher = (
                torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=layout)
                for _ in range(2)
            )
            weight = torch.rand(10, 104, 208, generator=generator)
            assert student.numel() * student.element_size() > 16 * MEBIBYTE

            def gradient(s, t, w):
                s = s.detach().requires_grad_()
                frs_kernels.weighted_bce(s, t, w, normalizer=3.0, backend="native").backward()
                return s.grad

            together = gradient(student, teacher, weight)
            for image in (slice(0, 1), slice(9, 10)):
                alone = gradient(student[image], teacher[image], weight[image])
                assert torch.equal(together[image], alone)


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
        scale = 0.37  # odd enough to round, and the normalizer keeps it in the gradient
        weight = torch.full((1, 1, values.shape[-1]), scale)
        loss = frs_kernels.weighted_mse(student, teacher, weight, normalizer=1.0, backend="native")
        loss.backward()
        assert torch.equal(student.grad, (2 * torch.tensor(scale) * values.float()).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_peak_memory_is_the_gradients_and_a_twentieth_at_most(dtype, layout):
    call = make_call(dtype, layout, batch=1, sizes=[(100, 168), (50, 84)], logits=360, channels=128)
    leaves = [t.requires_grad_() for t in call[0] + call[3]]

    def step():
        frs_kernels.frs_loss(*call, backend="native").total.backward()
        for leaf in leaves:
            leaf.grad = None

    step()
    peak = memory.peak_added(step, "cpu")
    if peak is None:
        pytest.skip("this kernel does not let a process reset its memory's high-water mark")
    gradients = sum(t.nbytes for t in leaves)
    assert 0.95 * gradients < peak < 1.05 * gradients + MEBIBYTE


def mapped_bytes():
    """Anonymous memory of this process, resident or not."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmData:")[1].split()[0]) * 1024


@pytest.fixture
def release():
    """Gives back what the pool of gradients keeps; now and after the test."""
    function = ctypes.CDLL(
        str(Path(frs_kernels.__file__).with_name("_native_cpu.so"))
    ).frs_release_gradient_memory
    function()
    yield function
    function()


def large_call(height):
    return make_call(batch=1, sizes=[(height, 64)], logits=256, channels=1)


def grad_bytes(height):
    return 4 * 256 * 64 * height


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.skipif(
    torch.__version__ < (2, 11), reason="the pool needs torch_from_blob, which came with torch 2.11"
)
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
def test_gradients_survive_a_fork(release):
    """A child may use and free what it inherited; the parent's values stay."""
    program = """
import os, torch, test_native_cpu as t
torch.set_num_threads(1)
call = t.large_call(64)
held = t.run(call)
del call[0][0]
call = t.large_call(64)
t.run(call)
kept = t.bits(held)
child = os.fork()
if child == 0:
    same = all(torch.equal(a, b) for a, b in zip(t.bits(t.run(call)), kept))
    held = None
    t.run(call)
    os._exit(0 if same else 1)
t.run(call)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert all(torch.equal(a, b) for a, b in zip(t.bits(held), kept))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_a_thread_with_a_small_stack():
    """What a kernel keeps of its block is not on the stack: threads of 256 KiB are usual in servers."""
    program = """
import threading, torch, test_native_cpu as t
def work():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for layout in (torch.contiguous_format, torch.channels_last):
            call = t.make_call(dtype, layout, batch=1, sizes=[(150, 150)], logits=70, channels=4)
            t.run(call)
            with torch.no_grad():
                t.frs_kernels.frs_loss(*call, backend="native")
    print("done")
torch.set_num_threads(1)
threading.stack_size(256 * 1024)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "done\n", f"{done.returncode} {done.stderr}"
