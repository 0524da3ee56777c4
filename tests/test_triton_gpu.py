"""The Triton kernels on a GPU: real shapes, graph capture, recompilation, huge tensors.

Memory errors and races: `compute-sanitizer --tool memcheck|racecheck pytest -m sanitize`.
"""

import pytest
import torch
from cases import INTERPRETED, Target, compare, evaluate, tensors
from gpu_cases import RETINANET, captured, run_every_kernel
from loss_cases import WRT, arguments

import frs_kernels as frs

if INTERPRETED or not torch.cuda.is_available():
    pytest.skip("needs a CUDA GPU and no interpreter", allow_module_level=True)

pytestmark = pytest.mark.gpu
CUDA = Target("triton", "cuda")


@pytest.mark.sanitize
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_kernel_once(dtype, layout):
    """Small enough for compute-sanitizer. Includes a mask with NaN."""
    base = run_every_kernel(CUDA, dtype, layout)
    base["teacher_logits"][0][0, 3, 1, 2] = float("nan")
    assert frs.frs_mask(base["teacher_logits"], backend="triton")[0][0, 1, 2].isnan()


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_retinanet_shapes(dtype, layout):
    base = arguments(256, 720, sizes=RETINANET, dtype=dtype, layout=layout, device="cuda", batch=2)
    compare(frs.frs_loss, CUDA, base, WRT, upstream=0.7)
    compare(frs.frs_loss, CUDA, base, ())


def step(leaves, scale):
    for levels in leaves.values():
        for leaf in levels:
            leaf.grad = None
    loss = frs.frs_loss(**leaves, feat_weight=scale, backend="triton").total
    loss.backward()
    return loss


def test_capture_and_replay_follow_the_inputs():
    leaves = {
        name: [t.requires_grad_(name in WRT) for t in levels]
        for name, levels in arguments(64, 80, sizes=RETINANET[1:], device="cuda").items()
    }
    scale = torch.ones((), device="cuda")
    graph, loss = captured(lambda: step(leaves, scale))
    captured_grads = [leaf.grad for name in WRT for leaf in leaves[name]]
    for seed in (11, 12):
        fresh = arguments(64, 80, sizes=RETINANET[1:], device="cuda")
        with torch.no_grad():
            for name, levels in leaves.items():
                for leaf, new in zip(levels, fresh[name], strict=True):
                    leaf.copy_(new * (seed - 10.5))
            scale.fill_(seed - 10)
        graph.replay()
        values = {name: [t.detach().clone() for t in levels] for name, levels in leaves.items()}
        expected, expected_grads = evaluate(
            frs.frs_loss, values, WRT, feat_weight=scale.clone(), backend="triton"
        )
        assert torch.equal(loss, expected[-1])
        assert all(map(torch.equal, captured_grads, expected_grads))


def test_multi_scale_training_compiles_once_per_layout_and_alignment():
    from frs_kernels.backends.triton.loss import loss_kernel

    def compiled():
        return len(loss_kernel.device_caches[torch.cuda.current_device()][0])

    def run(height, width):
        sizes = [(height, width), (height // 2, width // 2)]
        evaluate(frs.frs_loss, arguments(16, 48, sizes=sizes, device="cuda"), WRT, backend="triton")

    run(32, 48)
    run(30, 46)
    before = compiled()
    for height, width in ((32, 64), (34, 46), (64, 80), (96, 160), (2, 6), (38, 50)):
        run(height, width)
    assert compiled() == before


def test_no_sync_in_forward_and_backward():
    leaves = {
        name: [t.requires_grad_(name in WRT) for t in levels]
        for name, levels in arguments(64, 80, sizes=RETINANET[2:], device="cuda").items()
    }
    scale = torch.ones((), device="cuda")
    step(leaves, scale)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(leaves, scale)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_above_the_gradients_is_small():
    base = arguments(256, 720, sizes=RETINANET, dtype=torch.bfloat16, device="cuda", batch=4)
    leaves = {name: [t.requires_grad_(name in WRT) for t in levels] for name, levels in base.items()}
    scale = torch.ones((), device="cuda")
    step(leaves, scale)
    for levels in leaves.values():
        for leaf in levels:
            leaf.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(leaves, scale)
    gradients = sum(t.numel() * t.element_size() for name in WRT for t in leaves[name])
    assert torch.cuda.max_memory_allocated() - before <= 1.02 * gradients


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_tensors_of_more_than_2_31_elements(layout):
    """One level whose logits need 64-bit addresses: the last image must get the gradient of the first."""
    free, _ = torch.cuda.mem_get_info()
    batch, channels, height, width = 130, 1024, 128, 132
    needed = 5 * 2 * batch * channels * height * width
    if free < needed:
        pytest.skip(f"needs {needed >> 30} GiB of free GPU memory")
    (one,) = tensors(channels, sizes=[(height, width)], batch=1, dtype=torch.bfloat16, device="cuda")
    (other,) = tensors(
        channels, sizes=[(height, width)], batch=1, dtype=torch.bfloat16, device="cuda", seed=1
    )
    memory = torch.contiguous_format if layout == "nchw" else torch.channels_last
    teacher, student = (t.expand(batch, -1, -1, -1).contiguous(memory_format=memory) for t in (one, other))
    assert teacher.numel() > 2**31
    student.requires_grad_()
    options = {"normalizer": "batch", "backend": "triton"}
    loss = frs.frs_loss(None, None, student_logits=student, teacher_logits=teacher, **options).total
    loss.backward()
    single = frs.frs_loss(None, None, student_logits=other, teacher_logits=one, **options).total
    torch.testing.assert_close(loss, single, rtol=1e-4, atol=0)
    assert torch.equal(student.grad[0], student.grad[-1])
