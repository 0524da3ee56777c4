"""FeatureAdapter and FRSDistillationLoss."""

import pytest
import torch
from cases import SIZES, fields, tensors
from torch._dynamo.testing import CompileCounterWithBackend

import frs_kernels as frs


def arguments(student_channels=6, teacher_channels=8):
    return {
        "student_feats": tensors(student_channels, seed=1),
        "teacher_feats": tensors(teacher_channels, seed=2),
        "student_logits": tensors(12, seed=4),
        "teacher_logits": tensors(12, seed=3),
    }


def warming_up(steps, **options):
    """A loss whose total is that of frs_loss times its warm-up factor."""
    return frs.FRSDistillationLoss(
        8, 8, 4, adapter="identity", feat_weight=1, head_weight=1, warmup_iters=steps, **options
    )


@pytest.mark.parametrize("kind", ["conv3x3", "conv1x1", "mlp1x1"])
def test_adapter_maps_to_the_teachers_channels(kind):
    adapter = frs.FeatureAdapter(6, 8, len(SIZES), kind=kind)
    adapted = adapter(tensors(6))
    assert [t.shape for t in adapted] == [t.shape for t in tensors(8)]
    assert all(p.requires_grad for p in adapter.parameters())


def test_an_adapter_may_have_channels_per_level():
    adapter = frs.FeatureAdapter([4, 6], 8, kind="conv1x1")
    adapted = adapter([torch.randn(1, 4, 5, 5), torch.randn(1, 6, 3, 3)])
    assert [t.shape[1] for t in adapted] == [8, 8]


def test_identity_adapter_changes_nothing(refused):
    feats = tensors(8)
    assert all(
        a is b for a, b in zip(frs.FeatureAdapter(8, 8, 4, kind="identity")(feats), feats, strict=True)
    )
    assert "equal channels" in refused(frs.FeatureAdapter, 6, 8, 4, kind="identity")


def test_adapter_resizes_to_the_teacher():
    feats = [torch.randn(2, 6, 10, 12), torch.randn(2, 6, 5, 6)]
    sizes = [(20, 24), (5, 6)]
    adapted = frs.FeatureAdapter(6, 8, 2, resize=True)(feats, sizes)
    assert [tuple(t.shape[2:]) for t in adapted] == sizes
    assert [t.shape[2:] for t in frs.FeatureAdapter(6, 8, 2)(feats, sizes)] == [t.shape[2:] for t in feats]


def test_the_adapter_names_what_does_not_fit(refused):
    adapter = frs.FeatureAdapter(6, 8, 4)
    assert refused(adapter, tensors(6)[:3]) == "student features have 3 levels, the adapter 4"
    assert "level 0: student features [2, 5, 9, 14] have 5 channels, the adapter takes 6" in refused(
        adapter, tensors(5)
    )
    assert "none of" in refused(frs.FeatureAdapter, 6, 8, 4, kind="conv5x5")
    assert "num_levels" in refused(frs.FeatureAdapter, 6, 8)
    assert "num_levels" in refused(frs.FeatureAdapter, [6, 6], [8, 8, 8])


def test_loss_module_is_the_loss_of_adapted_features():
    module = frs.FRSDistillationLoss(6, 8, 4, feat_weight=0.1, head_weight=0.3, warmup_iters=0)
    base = arguments()
    actual = module(**base)
    base["student_feats"] = module.adapter(base["student_feats"])
    expected = frs.frs_loss(**base, feat_weight=0.1, head_weight=0.3)
    torch.testing.assert_close(fields(actual), fields(expected))
    actual.total.backward()
    assert all(p.grad is not None for p in module.parameters())


def test_warm_up_is_linear_and_continues_from_a_checkpoint():
    base, module = arguments(8), warming_up(4)
    full = frs.frs_loss(**base).total
    for step in range(2):
        module.set_step(step)
        torch.testing.assert_close(module(**base).total, full * step / 4)
    module.set_step(2)
    resumed = warming_up(4)
    resumed.load_state_dict(module.state_dict())
    optimizer = torch.optim.SGD([torch.ones((), requires_grad=True)])
    resumed.count_steps(optimizer)
    for factor in (0.5, 0.75, 1.0, 1.0):
        torch.testing.assert_close(resumed(**base).total, full * factor)
        optimizer.step()


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_warm_up_counts_optimizer_steps_whatever_the_accumulation(accumulate):
    base, module = arguments(8), warming_up(3)
    student = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(student.parameters())
    module.count_steps(optimizer)
    full = frs.frs_loss(**base).total
    for step in range(5):
        assert module.iteration == step
        for _ in range(accumulate):
            torch.testing.assert_close(module(**base).total, full * min(step / 3, 1.0))
        optimizer.step()


def test_a_step_that_the_gradient_scaler_skips_does_not_count():
    module, scaler = warming_up(3), torch.amp.GradScaler("cpu", init_scale=2.0)
    weight = torch.ones((), requires_grad=True)
    optimizer = torch.optim.SGD([weight])
    handle = module.count_steps(optimizer)
    for gradient, steps in ((float("inf"), 0), (1.0, 1)):
        optimizer.zero_grad()
        scaler.scale(weight * gradient).backward()
        scaler.step(optimizer)
        scaler.update()
        assert module.iteration == steps
    handle.remove()
    optimizer.step()
    assert module.iteration == 1


def test_a_warm_up_that_is_not_told_the_steps_is_refused_in_training():
    base, module = arguments(8), warming_up(500)
    with pytest.raises(RuntimeError, match=r"count_steps\(optimizer\) once, or set_step\(step\)"):
        module(**base)
    assert module.eval()(**base).total == 0
    module.train().set_step(1000)
    torch.testing.assert_close(module(**base).total, frs.frs_loss(**base).total)
    assert warming_up(0)(**base).total.isfinite()


def test_the_state_of_the_module_is_its_steps_and_its_adapters():
    assert list(warming_up(4).state_dict()) == ["iteration"]
    assert list(frs.FRSDistillationLoss(6, 8, 1).state_dict()) == [
        "iteration", "adapter.layers.0.weight", "adapter.layers.0.bias",
    ]  # fmt: skip


def test_single_tensors_are_one_level():
    module = frs.FRSDistillationLoss(6, 8, 1, warmup_iters=0)
    levels = {name: tensors[0] for name, tensors in arguments().items()}
    assert module(**levels).total.isfinite()


def test_masks_may_replace_the_logits():
    module = frs.FRSDistillationLoss(6, 8, 4, warmup_iters=0)
    base = arguments()
    del base["student_logits"]
    expected = module(**base)
    masks = frs.frs_mask(base.pop("teacher_logits"))
    torch.testing.assert_close(fields(module(**base, masks=masks)), fields(expected))


def test_compiles_into_one_graph():
    module, base = warming_up(4), arguments(8)
    totals = []
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    for step in range(6):
        module.set_step(step)
        totals.append((compiled(**base).total.item(), module(**base).total.item()))
    assert [a for a, _ in totals] == pytest.approx([b for _, b in totals], rel=1e-5)
    assert counter.frame_count == 1
