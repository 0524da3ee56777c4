"""The learner of a configuration: the inherited head, and the check of batch norm."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from tiny_detectors import tiny
from tiny_runs import quiet_fit, run_config

from frs_train.config import DistillConfig
from frs_train.errors import UserError
from frs_train.training import learners, run
from frs_train.training.checkpoint import read_detector


class Said:
    """A log that stores its messages."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    warn = say


def test_a_run_trains_with_warmups_that_end(digits, tmp_path, monkeypatch):
    config = run_config(digits, tmp_path, iterations=8, distill=DistillConfig(teacher="t"))

    def made(config, *_, **__):
        raise UserError(f"warm-up {config.distill.warmup_iters}")

    monkeypatch.setattr(run, "make_learner", made)
    with pytest.raises(UserError, match="^warm-up 2$"):
        quiet_fit(config)


@pytest.mark.parametrize(
    ("options", "side", "processes", "works"),
    [
        ({"batch_size": 1}, 32, 1, False),
        ({"batch_size": 1}, 33, 1, True),
        ({"batch_size": 2}, 32, 1, True),
        ({"batch_size": 4, "accumulate": 4}, 32, 1, False),
        ({"batch_size": 4, "accumulate": 2}, 32, 2, False),
    ],
)
def test_batch_norm_needs_two_values(tmp_path, options, side, processes, works):
    config = run_config(
        tmp_path, tmp_path, detector={"backbone_norm": "batch", "min_size": (64, side)}, **options
    )
    with nullcontext() if works else pytest.raises(UserError, match=f"--min-size {side} .*--batch-size"):
        learners.check_batch_norm(config, processes)
    learners.check_batch_norm(
        replace(config, detector=replace(config.detector, backbone_norm="group")), processes
    )


@pytest.mark.parametrize(("side", "works"), [(32, False), (33, True)])
def test_batch_norm_check_agrees_with_torch(side, works):
    detector = tiny("fcos", backbone_norm="batch").train()
    with nullcontext() if works else pytest.raises(ValueError, match="more than 1 value"):
        detector([torch.rand(3, 40, 40)], size=side)


def learner(config, log):
    classes = [str(digit) for digit in range(10)]
    return learners.make_learner(config, classes, torch.device("cpu"), log, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "starts from the teacher's"),
        ({"method": "none"}, "starts from the teacher's"),
        ({"method": "none", "inherit_head": False}, None),
        ({"inherit_head": False}, None),
    ],
)
def test_head_is_inherited_on_request_and_logged(digits, teacher, tmp_path, options, said):
    log = Said()
    config = run_config(digits, tmp_path, distill=DistillConfig(teacher=str(teacher), **options))
    student = learner(config, log).student
    theirs = read_detector(str(teacher), log)[0].state_dict()
    name = "model.head.classification_head.cls_logits.weight"
    assert torch.equal(student.state_dict()[name], theirs[name]) == bool(said)
    assert [line for line in log.lines if "head" in line] == (
        [line for line in log.lines if said in line] if said else []
    )
    assert len([line for line in log.lines if "head" in line]) == bool(said)


def test_head_that_does_not_fit_is_logged(digits, teacher, tmp_path):
    log = Said()
    distill = DistillConfig(teacher=str(teacher), method="none")
    learner(run_config(digits, tmp_path, distill=distill, detector={"family": "retinanet"}), log)
    assert "The student's head starts at random: the teacher's does not fit." in log.lines


def test_unused_teacher_is_not_read(digits, tmp_path):
    distill = DistillConfig(teacher=str(tmp_path / "none"), method="none", inherit_head=False)
    assert learner(run_config(digits, tmp_path, distill=distill), Said()).student.family == "fcos"
