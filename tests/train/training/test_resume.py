"""Resuming a run: options that may or may not change, and damaged checkpoints."""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_runs import quiet_fit, run_config

from frs_train.config import DistillConfig, RunConfig
from frs_train.errors import UserError
from frs_train.options import from_dict, to_dict
from frs_train.training import checkpoint, resume
from frs_train.training.learner import Learner
from frs_train.training.learners import build
from frs_train.training.state import TrainingState
from frs_train.training.step import optimizer_step


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


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
def test_options_that_resuming_cannot_change(digits, teacher, option, changes, words):
    before = content_of(teacher)
    with pytest.raises(UserError, match=f"another --{option}: {words} now"):
        quiet_fit(run_config(digits, teacher, iterations=9, **changes), resume=True)
    assert content_of(teacher) == before


def test_invalid_line_in_the_metrics_is_named_before_any_change(digits, teacher, tmp_path):
    out = shutil.copytree(teacher, tmp_path / "run")
    (out / "metrics.jsonl").write_text("hello\n" + (out / "metrics.jsonl").read_text())
    before = content_of(out)
    with pytest.raises(UserError, match="metrics.jsonl, line 1 is not what frs-train writes there"):
        quiet_fit(run_config(digits, out, iterations=9), resume=True)
    assert content_of(out) == before


def test_options_that_resuming_may_change(digits, teacher):
    saved = checkpoint.newest(teacher, print)
    freely = {"lr": 1.0, "batch_size": 2, "clip": 3.0, "amp": "fp16", "keep": 9, "iterations": 99}
    resume.refuse_other(saved, run_config(digits, teacher, **freely), saved["classes"])
    with pytest.raises(UserError, match="other classes: it was trained on 0, 1"):
        resume.refuse_other(saved, run_config(digits, teacher), ["cat"])


def test_another_adapter_is_refused_only_with_distillation(digits, teacher):
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


def test_options_of_the_optimizer_come_from_the_command_line(digits, tmp_path):
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
    """The content of a checkpoint with all parts, and its configuration."""
    folder = tmp_path_factory.mktemp("whole")
    config = run_config(digits, folder, iterations=1, ema=0.5, amp="fp16")
    quiet_fit(config)
    return Saved(checkpoint.newest(folder, print), config)


class Saved:
    """Has a short repr, because pytest would print the whole content."""

    def __init__(self, content, config):
        self.content, self.config = content, config


GONE = object()
JUNK = st.sampled_from(
    [GONE, None, True, -1, 0, 1.5, float("nan"), 2**70, "x", b"x", [], {}, [1], {"a": 1}, {1: {}}, {-1: {}},
     {0: {"step": None}}, torch.ones(()), torch.zeros(2, 3), torch.ones(3) * 1j, {"x": torch.ones(1)}]
)  # fmt: skip


def places(value, path=()):
    """The paths of all values in nested dictionaries, but only of the first tensor of each dictionary."""
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
def test_damaged_checkpoint_raises_only_user_errors(whole, tmp_path, data):
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
        state = state_of(whole.config)
        state.restore(found)
    except UserError:
        return
    if path[0] in ("optimizer", "scaler"):  # these parts are used only in a step
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        target = {"boxes": torch.ones(0, 4), "labels": torch.ones(0, dtype=torch.int64)}
        optimizer_step(state, state.learner, [[(image, target)]])


@pytest.mark.parametrize(
    "config", [{}, {"novelty": 1}, {"detector": 5}, {"detector": {"family": 5}}, {"detector": {"sizes": 5}}]
)
def test_damaged_configuration_is_refused(whole, config):
    with pytest.raises(UserError):
        checkpoint.restore({**whole.content, "config": config})


def test_undamaged_checkpoint_fits(whole):
    content, config = whole.content, whole.config
    resume.refuse_other(content, config, content["classes"])
    state = state_of(config)
    state.restore(content)
    assert state.iteration == 1 and state.optimizer.state_dict()["state"]
    assert from_dict(RunConfig, json.loads(json.dumps(content["config"]))) == config
