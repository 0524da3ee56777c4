"""The CUDA kernels on a GPU: what the tests of all backends (target native-cuda) do not cover.

Memory errors and races: `compute-sanitizer --tool memcheck|racecheck|initcheck|synccheck pytest -m sanitize`.
"""

import functools

import pytest
import torch
from cases import LONG_SIZES, Target, compare, fields, random_masks, tensors
from gpu_cases import RETINANET, captured, results_in_streams, run_every_kernel
from loss_cases import WRT, arguments

import frs_kernels as frs
from frs_kernels.backends import native

pytestmark = pytest.mark.gpu


@pytest.fixture
def target() -> Target:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    if (reason := native.unavailable_on(torch.device("cuda"))) is not None:
        pytest.skip(reason)
    return Target("native", "cuda")


def loss_and_grads(base, **options):
    leaves = {name: [t.detach().requires_grad_(name in WRT) for t in base[name]] for name in base}
    losses = frs.frs_loss(**leaves, backend="native", **options)
    losses.total.backward()
    return fields(losses), [leaf.grad for name in WRT for leaf in leaves[name]]


@pytest.mark.sanitize
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "rows", "split"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_kernel_once(target, dtype, layout):
    """Small enough for compute-sanitizer."""
    base = run_every_kernel(target, dtype, layout)
    frs.frs_mask(base["teacher_logits"], backend="native")
    torch.cuda.synchronize()


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_retinanet_shapes(target, dtype, layout):
    base = arguments(256, 720, sizes=RETINANET, dtype=dtype, layout=layout, device="cuda", batch=1)
    compare(frs.frs_loss, target, base, WRT, feat_weight=0.005, head_weight=0.02)
    compare(frs.frs_loss, target, base, WRT, feat_weight=0.005, head_weight=0.02, normalizer="numel")
    compare(frs.frs_loss, target, base, ())


@pytest.mark.parametrize("normalizer", ["mask", "batch", "mask_all_levels"])
def test_same_bits_run_after_run(target, normalizer):
    base = arguments(256, 720, sizes=RETINANET, dtype=torch.bfloat16, device="cuda")
    first_losses, first_grads = loss_and_grads(base, normalizer=normalizer)
    for _ in range(10):
        losses, grads = loss_and_grads(base, normalizer=normalizer)
        assert all(torch.equal(a, b) for a, b in zip(losses, first_losses, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(grads, first_grads, strict=True))


def test_capture_and_replay(target):
    base = arguments(32, 48, sizes=LONG_SIZES, device="cuda")
    leaves = {name: [t.clone().requires_grad_(name in WRT) for t in base[name]] for name in base}
    students = [leaf for name in WRT for leaf in leaves[name]]
    scale = torch.tensor(1.0, device="cuda")

    def step():
        losses = frs.frs_loss(**leaves, head_weight=scale, backend="native")
        return fields(losses), torch.autograd.grad(losses.total, students)

    graph, (losses, grads) = captured(step)
    for seed in range(3):
        fresh = tensors(48, sizes=LONG_SIZES, device="cuda", seed=100 + seed)
        with torch.no_grad():
            scale.fill_(seed + 0.5)
            for leaf, value in zip(leaves["student_logits"], fresh, strict=True):
                leaf.copy_(value)
        graph.replay()
        expected, expected_grads = step()
        assert all(torch.equal(a, b) for a, b in zip(losses, expected, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(grads, expected_grads, strict=True))


def test_concurrent_streams_do_not_meet(target):
    bases = [arguments(32, 48, sizes=LONG_SIZES, device="cuda", batch=2 + i) for i in range(4)]
    expected = [loss_and_grads(base) for base in bases]
    results = results_in_streams([functools.partial(loss_and_grads, base) for base in bases])
    for of_base, (wanted, wanted_grads) in zip(results, expected, strict=True):
        for losses, grads in of_base:
            assert all(torch.equal(a, b) for a, b in zip(losses, wanted, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(grads, wanted_grads, strict=True))


def test_another_device_than_the_current_one(target):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    base = arguments(device="cuda:1")
    losses, grads = loss_and_grads(base)
    assert {t.device.index for t in (*losses, *grads)} == {1} and torch.cuda.current_device() == 0
    compare(frs.frs_loss, Target("native", "cuda:1"), base, WRT)


def test_tensors_of_two_devices_are_refused(target):
    student, teacher = tensors(8, device="cuda"), tensors(8)
    masks = random_masks(device="cuda")
    with pytest.raises(RuntimeError, match="one device"):
        torch.ops.frs_kernels.loss(
            student, teacher, [], [], masks, [], 0, 1.0, None, 1.0, None, 1.0, None, 0.0, False, False, False
        )


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_more_than_2_31_elements(target, layout):
    """Constant values, so that the sums are known; the last elements' gradients show where the walk ends."""
    if torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
        pytest.skip("needs 40 GiB of GPU memory")
    batch, channels, height, width = 3, 720, 1024, 1000
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    shape = (batch, channels, height, width)
    student = torch.ones(shape, dtype=torch.bfloat16, device="cuda").contiguous(memory_format=memory_format)
    teacher = torch.zeros(shape, dtype=torch.bfloat16, device="cuda").contiguous(memory_format=memory_format)
    assert student.numel() > 2**31
    mask = torch.ones(batch, height, width, device="cuda")
    student.requires_grad_()
    loss = frs.weighted_mse(student, teacher, mask, normalizer="batch", backend="native")
    torch.testing.assert_close(loss.item(), float(channels * height * width), rtol=1e-5, atol=0)  # of float32
    loss.backward()
    expected = torch.tensor(2 / batch, dtype=torch.bfloat16, device="cuda")
    assert all((part == expected).all() for part in student.grad)


def test_launches_and_memory(target):
    base = arguments(256, 720, sizes=RETINANET, dtype=torch.bfloat16, device="cuda")
    leaves = {name: [t.clone().requires_grad_(name in WRT) for t in base[name]] for name in base}
    frs.frs_loss(**leaves, backend="native").total.backward()
    for name in WRT:
        for leaf in leaves[name]:
            leaf.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as forward:
        total = frs.frs_loss(**leaves, backend="native").total
        torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as backward:
        total.backward()
        torch.cuda.synchronize()
    grads = sum(leaf.grad.nbytes for name in WRT for leaf in leaves[name])
    assert torch.cuda.max_memory_allocated() - before <= 1.02 * grads + 2**20

    def launched(profile):
        device = torch.autograd.DeviceType.CUDA
        return [event.name for event in profile.events() if event.device_type == device]

    assert len([name for name in launched(forward) if "frs" in name or "Memset" in name]) <= 3
    assert len([name for name in launched(backward) if "frs" in name]) == 2  # one per term
