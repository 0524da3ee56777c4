"""A run folder is one run's: its lock, what it saves and when, and what it goes on from."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_runs import quiet_fit, run_config

from frs_train import checkpoint, engine, metrics, resume
from frs_train.assemble import build
from frs_train.config import DistillConfig, RunConfig, TrainConfig, from_dict, to_dict
from frs_train.distiller import Learner
from frs_train.errors import Stopped, UserError
from frs_train.run_folder import held
from frs_train.state import TrainingState

HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from frs_train.run_folder import held
with held(Path(sys.argv[1])):
    if os.fork():
        print("held", flush=True)
    time.sleep(60)
"""


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def iterations(folder):
    return [checkpoint.load(path)["iteration"] for path in checkpoint.checkpoints(folder)]


def test_a_second_run_is_refused_as_long_as_the_first_goes(digits, tmp_path):
    with held(tmp_path):
        with pytest.raises(UserError, match="Another run is training into"):
            quiet_fit(run_config(digits, tmp_path))
        assert os.listdir(tmp_path) == [".lock"]
    with held(tmp_path):
        pass


def test_a_killed_run_leaves_no_lock_even_if_its_loaders_live_on(tmp_path):
    command = [sys.executable, "-c", HOLD_AND_FORK, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="Another run"), held(tmp_path):
            pass
        process.kill()
        process.wait()
        with held(tmp_path):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be used"), held(tmp_path / "file"):
        pass


def test_when_a_run_saves():
    def saved(total, **options):
        t = TrainConfig(**options)
        return [i for i in range(1, total + 1) if engine.save_due(t, i, total)]

    assert saved(1200, log_every=20, checkpoint_every=500) == [20, 40, 80, 160, 320, 500, 1000, 1200]
    assert saved(100, log_every=10, checkpoint_every=0, eval_every=40) == [40, 80, 100]
    assert saved(9, log_every=20, checkpoint_every=4) == [4, 8, 9]


SCORES = dict.fromkeys(("AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR"), 0.5) | {"classes": {}}


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations whose AP is the next of a list; a signal number in it arrives during that evaluation."""

    def script(*values):
        left = list(values)

        def evaluate(*_, **__):
            value = left.pop(0)
            if value is not None and value > 1:
                os.kill(os.getpid(), value)
                time.sleep(60)
            return {"AP": value, **SCORES}

        monkeypatch.setattr(engine, "evaluate", evaluate)
        return left

    return script


def evals(folder):
    lines = metrics.read(folder / "metrics.jsonl")
    return [(line["iteration"], line["AP"]) for line in lines if line["kind"] == "eval"]


def test_the_best_by_ap_is_kept_beside_the_newest(digits, tmp_path, scripted):
    scripted(None, 0.1, 0.3, 0.2)
    quiet_fit(run_config(digits, tmp_path, eval_every=1, keep=1))
    assert checkpoint.load(tmp_path / "best.pt")["iteration"] == 3
    assert iterations(tmp_path) == [4]
    checkpoint.restore(checkpoint.read(tmp_path / "best.pt", print))


def test_a_signal_ends_an_evaluation_at_once_and_the_resumed_run_makes_it(digits, tmp_path, scripted):
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


def test_a_finished_evaluation_is_not_made_again(digits, tmp_path, scripted):
    scripted(0.1, 0.2)
    config = run_config(digits, tmp_path, eval_every=3)
    result = quiet_fit(config)
    (tmp_path / "result.json").unlink()  # as if it had been killed before it wrote this
    again = quiet_fit(config, resume=True)
    assert again["AP"] == result["AP"] and evals(tmp_path) == [(3, 0.1), (4, 0.2)]


@pytest.fixture
def then(monkeypatch):
    """Batches as they are, but the third one is what a function does."""

    def instead(do):
        real = engine.loaded

        @contextlib.contextmanager
        def loaded(*arguments):
            with real(*arguments) as batches:
                yield (next(batches) if number < 2 else do() for number in range(9))

        monkeypatch.setattr(engine, "loaded", loaded)

    return instead


def test_a_signal_is_heard_while_waiting_for_data(digits, tmp_path, then):
    def hang():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    then(hang)
    start = time.monotonic()
    with pytest.raises(Stopped, match="at iteration 2; saved") as stopped:
        quiet_fit(run_config(digits, tmp_path))
    assert stopped.value.code == 143 and time.monotonic() - start < 30
    assert iterations(tmp_path) == [2]


def test_a_signal_is_heard_before_the_first_step(digits, tmp_path, monkeypatch):
    def read(*_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(engine, "open_data", read)
    with pytest.raises(Stopped, match="before the first step") as stopped:
        quiet_fit(run_config(digits, tmp_path))
    assert stopped.value.code == 130 and not checkpoint.checkpoints(tmp_path)


def test_what_was_learnt_before_an_unreadable_image_is_saved(digits, tmp_path, then):
    then(lambda: UserError("image x cannot be read"))
    with pytest.raises(UserError, match="image x"):
        quiet_fit(run_config(digits, tmp_path))
    assert iterations(tmp_path) == [2]


WILD = {"optimizer": "sgd", "lr": 1e30, "lr_warmup": 0, "clip": 0.0, "checkpoint_every": 1}


def test_weights_without_a_finite_loss_are_not_saved(digits, tmp_path):
    with pytest.raises(UserError, match="Lower --lr.*There is no checkpoint before that"):
        quiet_fit(run_config(digits, tmp_path, **WILD))
    assert not checkpoint.checkpoints(tmp_path)


def test_a_diverged_run_goes_on_from_its_checkpoint_with_another_rate(digits, tmp_path):
    tame = run_config(digits, tmp_path, **{**WILD, "lr": 1e-3}, iterations=2)
    quiet_fit(tame)
    wild = run_config(digits, tmp_path, **WILD)
    for _ in range(2):
        with pytest.raises(UserError, match="checkpoint of iteration 2 is kept.*--resume and other options"):
            quiet_fit(wild, resume=True)
    assert iterations(tmp_path) == [2, 1]
    longer = replace(tame, train=replace(tame.train, iterations=4))
    assert quiet_fit(longer, resume=True)["iterations"] == 4


@pytest.mark.parametrize(
    ("option", "changes", "words"),
    [
        ("optimizer", {"optimizer": "sgd"}, "it was adamw and is sgd"),
        ("ema", {"ema": 0.9}, "it was off and is on"),
        ("fpn-width", {"detector": {"fpn_width": 32}}, "it was 16 and is 32"),
        ("detector", {"detector": {"family": "retinanet"}}, "it was fcos and is retinanet"),
        ("method", {"distill": DistillConfig(teacher="t")}, "it was none and is frs"),
    ],
)
def test_options_that_a_run_keeps(digits, teacher, option, changes, words):
    before = content_of(teacher)
    with pytest.raises(UserError, match=f"another --{option}: {words} now"):
        quiet_fit(run_config(digits, teacher, iterations=9, **changes), resume=True)
    assert content_of(teacher) == before


def test_a_foreign_line_in_the_log_is_named_before_anything_is_changed(digits, teacher, tmp_path):
    out = shutil.copytree(teacher, tmp_path / "run")
    (out / "metrics.jsonl").write_text("hello\n" + (out / "metrics.jsonl").read_text())
    before = content_of(out)
    with pytest.raises(UserError, match="metrics.jsonl, line 1 is not what frs-train writes there"):
        quiet_fit(run_config(digits, out, iterations=9), resume=True)
    assert content_of(out) == before


def test_options_that_a_run_may_change(digits, teacher):
    saved = checkpoint.newest(teacher, print)
    freely = {"lr": 1.0, "batch_size": 2, "clip": 3.0, "amp": "fp16", "keep": 9, "iterations": 99}
    resume.refuse_other(saved, run_config(digits, teacher, **freely), saved["classes"])
    with pytest.raises(UserError, match="other classes: it learns 0, 1"):
        resume.refuse_other(saved, run_config(digits, teacher), ["cat"])


def test_another_adapter_is_refused_and_with_no_distillation_it_does_not_matter(digits, teacher):
    saved = checkpoint.newest(teacher, print)

    def refuse(before, now):
        config = to_dict(run_config(digits, teacher, distill=before))
        resume.refuse_other(
            {**saved, "config": config}, run_config(digits, teacher, distill=now), saved["classes"]
        )

    wide, narrow = (DistillConfig(teacher="t", adapter=a) for a in ("conv3x3", "conv1x1"))
    with pytest.raises(UserError, match="another --adapter: it was conv3x3 and is conv1x1 now"):
        refuse(wide, narrow)
    refuse(replace(wide, method="none"), replace(narrow, method="none"))
    refuse(None, replace(narrow, method="none"))


def test_the_optimisers_options_are_those_given_now(digits, tmp_path):
    config = run_config(digits, tmp_path, iterations=1, optimizer="sgd", weight_decay=0.5)
    quiet_fit(config)
    state = state_of(replace(config, train=replace(config.train, weight_decay=0.25)))
    state.restore(checkpoint.newest(tmp_path, print))
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [0.25]
    assert state.optimizer.state_dict()["state"]


def state_of(config):
    student = build(config.detector, [str(d) for d in range(10)])
    return TrainingState(config, Learner(student), torch.device("cpu"), 9)


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """The content of a checkpoint with everything in it, and the configuration that it fits."""
    folder = tmp_path_factory.mktemp("whole")
    config = run_config(digits, folder, iterations=1, ema=0.5, amp="fp16")
    quiet_fit(config)
    return Saved(checkpoint.newest(folder, print), config)


class Saved:
    """They are not printed: too long."""

    def __init__(self, content, config):
        self.content, self.config, self.state = content, config, state_of(config)


GONE = object()
JUNK = st.sampled_from(
    [GONE, None, True, -1, 0, 1.5, float("nan"), 2**70, "x", b"x", [], {}, [1], {"a": 1}, {1: {}}, {-1: {}},
     {0: {"step": None}}, torch.ones(()), torch.zeros(2, 3), torch.ones(3) * 1j, {"x": torch.ones(1)}]
)  # fmt: skip


def places(value, path=()):
    """The path of everything in nested dictionaries; of the many tensors of one only the first."""
    yield path
    if isinstance(value, dict) and path != ("config",):
        inner = list(value.items())
        flat = not any(isinstance(v, dict) for _, v in inner)
        for key, child in inner[:1] if flat and path[:1] != ("scaler",) else inner:
            if not isinstance(key, int) or key == 0:
                yield from places(child, (*path, key))


def damaged(content, path, junk):
    if not path:
        return junk
    copy = dict(content)
    if junk is GONE and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = damaged(copy[path[0]], path[1:], junk)
    return copy


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_only_user_errors_leave_a_damaged_checkpoint(whole, tmp_path, data):
    path = data.draw(st.sampled_from([p for p in places(whole.content) if p]))
    torch.save(damaged(whole.content, path, data.draw(JUNK)), tmp_path / "x.pt")
    try:
        found = checkpoint.load(tmp_path / "x.pt")
    except UserError as error:
        assert "x.pt" in str(error)
        return
    if path[0] in ("model", "ema", "classes"):
        with contextlib.suppress(UserError):
            checkpoint.restore(found)
    try:
        resume.refuse_other(found, whole.config, whole.content["classes"])
        whole.state.restore(found)
    except UserError:
        return
    if path[0] in ("optimizer", "scaler"):  # what is only looked at in a step
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        target = {"boxes": torch.ones(0, 4), "labels": torch.ones(0, dtype=torch.int64)}
        whole.state.step(whole.state.learner, [[(image, target)]])


@pytest.mark.parametrize(
    "config", [{}, {"novelty": 1}, {"detector": 5}, {"detector": {"family": 5}}, {"detector": {"sizes": 5}}]
)
def test_a_damaged_configuration(whole, config):
    with pytest.raises(UserError):
        checkpoint.restore({**whole.content, "config": config})


def test_the_whole_one_fits(whole):
    content, config = whole.content, whole.config
    resume.refuse_other(content, config, content["classes"])
    state = state_of(config)
    state.restore(content)
    assert state.iteration == 1 and state.optimizer.state_dict()["state"]
    assert from_dict(RunConfig, json.loads(json.dumps(content["config"]))) == config
