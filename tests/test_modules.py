"""FeatureAdapter and FRSDistillationLoss."""

import pytest
import torch
from cases import SIZES, tensors
from torch._dynamo.testing import CompileCounterWithBackend

import frs_kernels as frs


def arguments(student_channels=6, teacher_channels=8):
    return (
        tensors(student_channels, seed=1), tensors(teacher_channels, seed=2),
        tensors(12, seed=3), tensors(12, seed=4),
    )  # fmt: skip


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
    student_feats, teacher_feats, teacher_logits, student_logits = arguments()
    actual = module(student_feats, teacher_feats, teacher_logits, student_logits)
    expected = frs.frs_loss(
        module.adapter(student_feats), teacher_feats, teacher_logits, student_logits,
        feat_weight=0.1, head_weight=0.3,
    )  # fmt: skip
    torch.testing.assert_close(actual, expected)
    actual.total.backward()
    assert all(p.grad is not None for p in module.parameters())


def test_warm_up_is_linear_and_continues_from_a_checkpoint():
    def build():
        return frs.FRSDistillationLoss(
            8, 8, 4, adapter="identity", feat_weight=1, head_weight=1, warmup_iters=4
        )

    base, module = arguments(8), build()
    full = frs.frs_loss(*base).total
    torch.testing.assert_close([module(*base).total for _ in range(2)], [full * 0, full * 0.25])
    resumed = build()
    resumed.load_state_dict(module.state_dict())
    torch.testing.assert_close(
        [resumed(*base).total for _ in range(4)], [full * 0.5, full * 0.75, full, full]
    )


def test_warm_up_does_not_advance_in_evaluation():
    module = frs.FRSDistillationLoss(8, 8, 4, warmup_iters=10).eval()
    module(*arguments(8))
    assert module.iteration == 0
    module.train()(*arguments(8))
    assert module.iteration == 1


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_warm_up_counts_optimizer_steps_whatever_the_accumulation(accumulate):
    module = frs.FRSDistillationLoss(
        8, 8, 4, adapter="identity", feat_weight=1, head_weight=1, warmup_iters=3, accumulate=accumulate
    )
    base = arguments(8)
    full = frs.frs_loss(*base).total
    for step in range(5):
        assert module.iteration == step
        for _ in range(accumulate):
            torch.testing.assert_close(module(*base).total, full * min(step / 3, 1.0))


def test_a_checkpoint_counts_steps_and_a_resumed_run_starts_with_a_whole_step():
    def build(accumulate):
        return frs.FRSDistillationLoss(8, 8, 4, adapter="identity", accumulate=accumulate)

    base, module = arguments(8), build(4)
    for _ in range(6):
        module(*base)
    state = module.state_dict()
    assert list(state) == ["iteration"]  # checkpoints from before accumulation load too
    assert state["iteration"] == 1
    module.load_state_dict(state)  # into the module that has done 2 forwards of 4, and into a fresh one
    resumed = build(2)
    resumed.load_state_dict(state)
    for number in range(4):
        assert module.iteration == 1
        assert resumed.iteration == 1 + number // 2
        module(*base), resumed(*base)
    assert module.iteration == 2


def test_forwards_in_evaluation_do_not_count_for_a_step():
    module = frs.FRSDistillationLoss(8, 8, 4, adapter="identity", accumulate=2)
    for mode in (True, False, False, True):
        module.train(mode)(*arguments(8))
    assert module.iteration == 1


@pytest.mark.parametrize("accumulate", [0, -3])
def test_a_step_without_forwards_raises(refused, accumulate):
    message = refused(frs.FRSDistillationLoss, 8, 8, 4, accumulate=accumulate)
    assert message == f"accumulate must be at least 1 forward per optimizer step, got {accumulate}"


def test_single_tensors_are_one_level():
    module = frs.FRSDistillationLoss(6, 8, 1, warmup_iters=0)
    levels = [t[0] for t in arguments()]
    assert module(*levels).total.isfinite()


def test_masks_may_replace_the_logits():
    module = frs.FRSDistillationLoss(6, 8, 4, warmup_iters=0)
    student_feats, teacher_feats, teacher_logits, _ = arguments()
    by_masks = module(student_feats, teacher_feats, None, masks=frs.frs_mask(teacher_logits))
    torch.testing.assert_close(by_masks, module(student_feats, teacher_feats, teacher_logits))


def test_compiles_into_one_graph():
    module = frs.FRSDistillationLoss(6, 8, 4, warmup_iters=4, accumulate=2)
    base = arguments()
    expected = [module(*base).total.item() for _ in range(6)]
    module.iteration.zero_()
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    assert [compiled(*base).total.item() for _ in range(6)] == pytest.approx(expected, rel=1e-5)
    assert counter.frame_count == 1
