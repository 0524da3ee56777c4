"""With --ema, the moving average of the weights is evaluated."""

import pytest
import torch
from tiny_runs import quiet_fit, run_config

from frs_train.training import checkpoint, trainer


@pytest.mark.parametrize(("decay", "kind"), [(0.5, "ema"), (0.0, "model")])
def test_moving_average_is_evaluated(digits, tmp_path, monkeypatch, decay, kind):
    evaluated = []
    evaluate = trainer.evaluate

    def spy(detector, *args, **kwargs):
        evaluated.append({name: value.clone() for name, value in detector.state_dict().items()})
        return evaluate(detector, *args, **kwargs)

    monkeypatch.setattr(trainer, "evaluate", spy)
    quiet_fit(run_config(digits, tmp_path, ema=decay, iterations=2))
    saved = checkpoint.newest(tmp_path, print)[kind]
    assert evaluated[-1].keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in evaluated[-1].items())
