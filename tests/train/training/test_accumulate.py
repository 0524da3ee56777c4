"""The warm-up of the distillation counts iterations like the trainer: one per optimizer step."""

import pytest
from tiny_runs import quiet_fit, run_config

from frs_train.config import DistillConfig
from frs_train.training import checkpoint


@pytest.mark.parametrize("accumulate", [1, 2])
def test_accumulated_micro_batches_are_one_iteration_of_the_warm_up(digits, teacher, tmp_path, accumulate):
    distill = DistillConfig(teacher=str(teacher), warmup_iters=500)
    quiet_fit(run_config(digits, tmp_path, distill=distill, iterations=4, accumulate=accumulate))
    assert checkpoint.newest(tmp_path, print)["loss"]["loss.iteration"] == 4
