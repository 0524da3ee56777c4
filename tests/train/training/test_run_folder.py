"""The run folder: its checkpoints, the best one, evaluations, and signals."""

import contextlib
import os
import signal
import time
from dataclasses import replace

import pytest
from tiny_runs import quiet_fit, run_config

from frs_train.errors import Stopped, UserError
from frs_train.training import checkpoint, run, trainer
from frs_train.training.run_files import read_metrics


def iterations(folder):
    return [checkpoint.load(path)["iteration"] for path in checkpoint.checkpoints(folder)]


SCORES = dict.fromkeys(("AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR"), 0.5) | {"classes": {}}


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations that return the APs of a list; an entry that is a signal number sends the signal."""

    def script(*values):
        left = list(values)

        def evaluate(*_, **__):
            value = left.pop(0)
            if value is not None and value > 1:
                os.kill(os.getpid(), value)
                time.sleep(60)
            return {"AP": value, **SCORES}

        monkeypatch.setattr(trainer, "evaluate", evaluate)
        return left

    return script


def evals(folder):
    lines = read_metrics(folder / "metrics.jsonl")
    return [(line["iteration"], line["AP"]) for line in lines if line["kind"] == "eval"]


def test_checkpoint_with_the_highest_ap_is_kept_in_addition_to_the_newest(digits, tmp_path, scripted):
    scripted(None, 0.1, 0.3, 0.2)
    quiet_fit(run_config(digits, tmp_path, eval_every=1, keep=1))
    assert checkpoint.load(tmp_path / "best.pt")["iteration"] == 3
    assert iterations(tmp_path) == [4]
    checkpoint.restore(checkpoint.read(tmp_path / "best.pt", print))


def test_signal_ends_an_evaluation_which_the_resumed_run_repeats(digits, tmp_path, scripted):
    left = scripted(0.1, int(signal.SIGINT), 0.3, 0.2, 0.2)
    config = run_config(digits, tmp_path, eval_every=1)
    start = time.monotonic()
    with pytest.raises(Stopped, match="in the evaluation at iteration 2; saved") as stopped:
        quiet_fit(config)
    assert stopped.value.code == 130 and time.monotonic() - start < 30
    assert iterations(tmp_path)[0] == 2 and evals(tmp_path) == [(1, 0.1)]
    quiet_fit(config, resume=True)
    assert evals(tmp_path) == [(1, 0.1), (2, 0.3), (3, 0.2), (4, 0.2)] and not left
    assert checkpoint.load(tmp_path / "best.pt")["iteration"] == 2


def test_finished_evaluation_is_not_repeated(digits, tmp_path, scripted):
    scripted(0.1, 0.2)
    config = run_config(digits, tmp_path, eval_every=3)
    result = quiet_fit(config)
    (tmp_path / "result.json").unlink()  # as if the run had been killed before it was written
    again = quiet_fit(config, resume=True)
    assert again["AP"] == result["AP"] and evals(tmp_path) == [(3, 0.1), (4, 0.2)]


@pytest.fixture
def then(monkeypatch):
    """Unchanged batches, except the third, which a function supplies."""

    def instead(do):
        real = trainer.loaded

        @contextlib.contextmanager
        def loaded(*arguments):
            with real(*arguments) as batches:
                yield (next(batches) if number < 2 else do() for number in range(9))

        monkeypatch.setattr(trainer, "loaded", loaded)

    return instead


def test_signal_interrupts_the_wait_for_data(digits, tmp_path, then):
    def hang():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    then(hang)
    start = time.monotonic()
    with pytest.raises(Stopped, match="at iteration 2; saved") as stopped:
        quiet_fit(run_config(digits, tmp_path))
    assert stopped.value.code == 143 and time.monotonic() - start < 30
    assert iterations(tmp_path) == [2]


def test_signal_before_the_first_step_stops_the_run(digits, tmp_path, monkeypatch):
    def read(*_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(run, "open_data", read)
    with pytest.raises(Stopped, match="before the first step") as stopped:
        quiet_fit(run_config(digits, tmp_path))
    assert stopped.value.code == 130 and not checkpoint.checkpoints(tmp_path)


def test_unreadable_image_saves_the_progress(digits, tmp_path, then):
    then(lambda: UserError("image x cannot be read"))
    with pytest.raises(UserError, match="image x"):
        quiet_fit(run_config(digits, tmp_path))
    assert iterations(tmp_path) == [2]


WILD = {"optimizer": "sgd", "lr": 1e30, "lr_warmup": 0, "clip": 0.0, "checkpoint_every": 1}


def test_weights_without_a_finite_loss_are_not_saved(digits, tmp_path):
    with pytest.raises(UserError, match="Lower --lr.*There is no earlier checkpoint"):
        quiet_fit(run_config(digits, tmp_path, **WILD))
    assert not checkpoint.checkpoints(tmp_path)


def test_diverged_run_resumes_with_another_learning_rate(digits, tmp_path):
    tame = run_config(digits, tmp_path, **{**WILD, "lr": 1e-3}, iterations=2)
    quiet_fit(tame)
    wild = run_config(digits, tmp_path, **WILD)
    for _ in range(2):
        with pytest.raises(UserError, match="checkpoint of iteration 2 is kept.*--resume and other options"):
            quiet_fit(wild, resume=True)
    assert iterations(tmp_path) == [2, 1]
    longer = replace(tame, train=replace(tame.train, iterations=4))
    assert quiet_fit(longer, resume=True)["iterations"] == 4
