"""The schedule: learning rates, warm-ups, and iterations of checkpoints."""

from dataclasses import replace

import pytest
from tiny_runs import run_config

from frs_train.config import DistillConfig, TrainConfig
from frs_train.training import schedule
from frs_train.training.schedule import learning_rate, shorten_warmups, warmup_within


@pytest.mark.parametrize(
    ("requested", "total", "taken"),
    [(500, 154, 38), (500, 2000, 500), (500, 1999, 499), (0, 154, 0), (5, 3, 0)],
)
def test_a_warmup_takes_a_quarter_of_the_run_at_most(requested, total, taken):
    assert warmup_within(total, requested) == taken


@pytest.mark.parametrize("schedule", ["steps", "one-cycle"])
def test_short_run_reaches_its_learning_rate(schedule):
    config = TrainConfig(lr=0.1, lr_warmup=500, schedule=schedule)
    rates = [learning_rate(config, i, 154) for i in range(154)]
    assert rates[37] < max(rates) == rates[38] == pytest.approx(0.1)


def test_shortened_warmups_are_reported(tmp_path):
    plain = run_config(tmp_path, tmp_path, lr_warmup=500)
    taught = run_config(
        tmp_path, tmp_path, lr_warmup=10, distill=DistillConfig(teacher="t", warmup_iters=500)
    )
    alone = run_config(tmp_path, tmp_path, lr_warmup=10, distill=DistillConfig(method="none"))
    messages = []
    assert shorten_warmups(plain, 154, messages.append) == replace(
        plain, train=replace(plain.train, lr_warmup=38)
    )
    assert shorten_warmups(taught, 154, messages.append) == replace(
        taught, distill=replace(taught.distill, warmup_iters=38)
    )
    assert messages == [
        "A warm-up takes a quarter of the run at most. Of 154 iterations: --lr-warmup 500 becomes 38.",
        "A warm-up takes a quarter of the run at most. Of 154 iterations: --warmup-iters 500 becomes 38.",
    ]
    for config, total in ((alone, 154), (plain, 2000), (taught, 2000)):
        assert shorten_warmups(config, total, pytest.fail) is config


def test_learning_rates():
    steps = TrainConfig(lr=1.0, lr_warmup=10, lr_batch=16, batch_size=32)
    assert learning_rate(steps, 0, 120) == pytest.approx(0.002)
    assert learning_rate(steps, 10, 120) == pytest.approx(2.0)
    assert learning_rate(steps, 80, 120) == pytest.approx(0.2)
    assert learning_rate(steps, 119, 120) == pytest.approx(0.02)
    cycle = TrainConfig(lr=1.0, lr_warmup=10, schedule="one-cycle")
    rates = [learning_rate(cycle, i, 120) for i in range(120)]
    assert rates[0] == pytest.approx(0.04) and max(rates) == rates[10] == 1.0 and rates[-1] < 0.01
    assert learning_rate(cycle, 1, 8) < 1.0 == learning_rate(cycle, 2, 8)  # a quarter of a short run


def test_iterations_at_which_a_run_saves():
    def saved(total, **options):
        t = TrainConfig(**options)
        return [i for i in range(1, total + 1) if schedule.save_due(t, i, total)]

    assert saved(1200, log_every=20, checkpoint_every=500) == [20, 40, 80, 160, 320, 500, 1000, 1200]
    assert saved(100, log_every=10, checkpoint_every=0, eval_every=40) == [40, 80, 100]
    assert saved(9, log_every=20, checkpoint_every=4) == [4, 8, 9]
