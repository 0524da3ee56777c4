"""The warm-up of the distillation counts iterations like the trainer: one per optimizer step."""

from dataclasses import replace

import pytest
import torch
from tiny_runs import quiet_fit, run_config

import frs_kernels as frs
from frs_train.config import DistillConfig
from frs_train.training import checkpoint


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """The step of the warm-up in every forward that has gradients."""
    seen, forward = [], frs.FRSDistillationLoss.forward

    def spy(self, *args, **kwargs):
        if torch.is_grad_enabled():
            seen.append(int(self.iteration))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(frs.FRSDistillationLoss, "forward", spy)
    return seen


def config_of(digits, teacher, out, accumulate):
    distill = DistillConfig(teacher=str(teacher), warmup_iters=10)
    return run_config(
        digits, out, distill=distill, iterations=4, accumulate=accumulate, checkpoint_every=1, keep=9
    )


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_accumulated_micro_batches_are_one_iteration_of_the_warm_up(
    digits, teacher, tmp_path, steps, accumulate
):
    quiet_fit(config_of(digits, teacher, tmp_path, accumulate))
    assert steps == [step for step in range(4) for _ in range(accumulate)]
    for path in checkpoint.checkpoints(tmp_path):
        saved = checkpoint.load(path)
        assert saved["loss"]["loss.iteration"] == saved["iteration"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_continues_the_warm_up_at_its_own_count_of_steps(
    digits, teacher, tmp_path, steps, accumulate
):
    """Whatever count the checkpoint's module has: an earlier version may have counted otherwise."""
    config = config_of(digits, teacher, tmp_path, accumulate)
    quiet_fit(config)
    for path in checkpoint.checkpoints(tmp_path)[:2]:
        path.unlink()
    path = checkpoint.path_of(tmp_path, 2)
    saved = checkpoint.load(path)
    saved["loss"]["loss.iteration"].fill_(77)
    torch.save(saved, path)
    steps.clear()
    quiet_fit(replace(config, resume=True))
    assert steps == [step for step in (2, 3) for _ in range(accumulate)]
