"""The ratios of gradients: their values, and that measuring them changes no training."""

import pytest
import torch
from tiny_detectors import batch, tiny
from tiny_runs import quiet_fit, run_config

from frs_train.config import DistillConfig
from frs_train.training import checkpoint
from frs_train.training.distillation import DistilledLearner
from frs_train.training.learner import Learner
from frs_train.training.ratios import gradient_ratios, watched
from frs_train.training.run_files import read_metrics

IMAGES, TARGETS = batch()


def learner(student="fcos", teacher="fcos", **options):
    torch.manual_seed(0)
    student, teacher = tiny(student), tiny(teacher).eval().requires_grad_(False)
    config = DistillConfig(**{"warmup_iters": 0, "feat_weight": 0.1, "head_weight": 1.0, **options})
    return DistilledLearner(student, teacher, config, True, lambda text: None).train()


def measured(learner):
    with watched(learner, True) as feats:
        losses = learner(IMAGES, TARGETS, 64)
    return losses, feats, gradient_ratios(losses, feats)


def test_ratios_of_gradients_computed_by_hand():
    """Detection: gradients (3, 0), (0, 4), so that their norm is 5. Feature: 2 and 0. Head: 0 and 10."""
    feats = [torch.ones(1, 2, 1, 1, requires_grad=True) for _ in range(2)]
    first, second = (feat.flatten() for feat in feats)
    losses = {
        "classification": 3 * first[0],
        "box": 4 * second[1],
        "frs_feature": 2 * first[1],
        "frs_head": 6 * second[0] + 8 * second[1],
    }
    assert gradient_ratios(losses, feats) == pytest.approx(
        {"detection_level_0": 0.6, "detection_level_1": 0.8,
         "frs_feature": 0.4, "feature_level_0": 0.4, "feature_level_1": 0.0,
         "frs_head": 2.0, "head_level_0": 0.0, "head_level_1": 2.0}
    )  # fmt: skip
    assert all(feat.grad is None for feat in feats)


def test_a_ratio_that_is_not_finite_is_left_out():
    feat = torch.ones(1, 1, 1, 1, requires_grad=True)
    assert gradient_ratios({"box": 0 * feat.sum(), "frs_feature": feat.sum()}, [feat]) == {}
    overflow = {"box": feat.sum(), "frs_feature": torch.inf * feat.sum(), "frs_head": feat.sum()}
    expected = {"detection_level_0": 1.0, "frs_head": 1.0, "head_level_0": 1.0}
    assert gradient_ratios(overflow, [feat]) == expected


@pytest.mark.parametrize("pair", [("fcos", "fcos"), ("retinanet", "faster-rcnn"), ("faster-rcnn", "fcos")])
def test_levels_add_up_and_grow_with_the_weight(pair):
    """The weight 0.2 pulls twice as much as 0.1. The levels are those that both detectors have."""
    ratios = {w: measured(learner(*pair, feat_weight=w, method="frs-feature"))[2] for w in (0.1, 0.2)}
    shared = 5 if pair[0] == pair[1] else 4
    parts = [f"{part}_level_{level}" for part in ("detection", "feature") for level in range(shared)]
    assert sorted(ratios[0.1]) == sorted(["frs_feature", *parts])
    for name, value in ratios[0.1].items():
        factor = 1 if name.startswith("detection") else 2
        assert value > 0 and ratios[0.2][name] == pytest.approx(factor * value, rel=1e-4)
    for part, whole in (("detection", 1), ("feature", ratios[0.1]["frs_feature"])):
        squares = [value**2 for name, value in ratios[0.1].items() if name.startswith(f"{part}_level")]
        assert sum(squares) == pytest.approx(whole**2, rel=1e-4)


def test_a_factor_of_all_losses_changes_no_ratio():
    """Of a gradient scaler."""
    losses, feats, ratios = measured(learner())
    assert gradient_ratios({k: 64 * v for k, v in losses.items()}, feats) == pytest.approx(ratios, rel=1e-4)


def test_nothing_is_kept_unless_it_is_wanted():
    distilled = learner()
    for wanted, learns in ((False, distilled), (True, Learner(distilled.student))):
        with watched(learns, wanted) as feats:
            learns(IMAGES, TARGETS, 64)
        assert feats == []
    losses, feats, _ = measured(distilled)
    before = list(feats)
    distilled(IMAGES, TARGETS, 64)
    assert len(feats) == len(before) == 5, "the hook is gone after its block"


def state_after(digits, teacher, out, **train):
    distill = DistillConfig(teacher=str(teacher), warmup_iters=2, feat_weight=0.1, head_weight=1.0)
    quiet_fit(run_config(digits, out, distill=distill, **train))
    saved = checkpoint.newest(out, print)
    tensors = saved["model"] | {f"loss.{name}": value for name, value in saved["loss"].items()}
    lines = [line for line in read_metrics(out / "metrics.jsonl") if line["kind"] == "train"]
    return tensors, lines


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "clip": 1.0}, {"amp": "fp16"}])
def test_measuring_changes_no_weight(digits, teacher, tmp_path, options):
    """Every step is measured, or only the last one."""
    tensors, lines = state_after(digits, teacher, tmp_path / "each", log_every=1, **options)
    others, last = state_after(digits, teacher, tmp_path / "last", log_every=9, **options)
    assert all(torch.equal(value, others[name]) for name, value in tensors.items())
    assert (len(lines), len(last)) == (4, 1) and last[-1]["ratios"] == lines[-1]["ratios"]
    assert lines[0]["ratios"]["frs_feature"] == 0, "the first step of the warm-up"
    assert all(value > 0 for value in lines[-1]["ratios"].values())


def test_metrics_without_a_teacher_have_no_ratios(digits, tmp_path):
    quiet_fit(run_config(digits, tmp_path, iterations=1))
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["ratios"] == {}
