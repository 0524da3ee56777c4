"""What a configuration becomes: devices by name, warm-ups that end, a head that starts from the teacher's."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from tiny_detectors import tiny
from tiny_runs import quiet_fit, run_config

from frs_train import distributed
from frs_train.config import DistillConfig, TrainConfig
from frs_train.errors import UserError
from frs_train.training import learners, run
from frs_train.training.checkpoint import read_detector
from frs_train.training.schedule import learning_rate, shorten_warmups, warmup_within


class Said:
    """A log that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    warn = say


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda")
    )
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


@pytest.mark.parametrize("name", ["meta", "nonsense", "cuda:99", "cuda:-1", "", "cpu:0", "CPU", "cuda "])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=rf"^--device is {name}\. There is auto, cpu"):
        distributed.pick_device(name)


def test_the_devices_that_are_there(two_gpus):
    assert distributed.devices() == ["cpu", "cuda", "cuda:0", "cuda:1"]
    with pytest.raises(UserError, match="There is auto, cpu, cuda, cuda:0, cuda:1"):
        distributed.pick_device("cuda:2")
    assert distributed.pick_device("cpu") == torch.device("cpu")


def test_a_device_is_looked_at_before_anything_is_read(tmp_path):
    config = run_config(tmp_path / "no data", tmp_path / "run", device="meta")
    with pytest.raises(UserError, match="--device is meta"):
        quiet_fit(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "total", "taken"), [(500, 154, 38), (500, 2000, 500), (500, 1999, 499), (0, 154, 0), (5, 3, 0)]
)
def test_a_warmup_takes_a_quarter_of_the_run_at_most(asked, total, taken):
    assert warmup_within(total, asked) == taken


@pytest.mark.parametrize("schedule", ["steps", "one-cycle"])
def test_a_short_run_reaches_its_rate(schedule):
    config = TrainConfig(lr=0.1, lr_warmup=500, schedule=schedule)
    rates = [learning_rate(config, i, 154) for i in range(154)]
    assert rates[37] < max(rates) == rates[38] == pytest.approx(0.1)


def test_warmups_that_become_shorter_are_told(tmp_path):
    plain = run_config(tmp_path, tmp_path, lr_warmup=500)
    taught = run_config(
        tmp_path, tmp_path, lr_warmup=10, distill=DistillConfig(teacher="t", warmup_iters=500)
    )
    alone = run_config(tmp_path, tmp_path, lr_warmup=10, distill=DistillConfig(method="none"))
    told = []
    assert shorten_warmups(plain, 154, told.append) == replace(
        plain, train=replace(plain.train, lr_warmup=38)
    )
    assert shorten_warmups(taught, 154, told.append) == replace(
        taught, distill=replace(taught.distill, warmup_iters=38)
    )
    assert told == [
        "A warm-up takes a quarter of the run at most. Of 154 iterations: --lr-warmup 500 becomes 38.",
        "A warm-up takes a quarter of the run at most. Of 154 iterations: --warmup-iters 500 becomes 38.",
    ]
    for config, total in ((alone, 154), (plain, 2000), (taught, 2000)):
        assert shorten_warmups(config, total, pytest.fail) is config


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
def test_batch_norm_is_as_torch_has_it(side, works):
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
def test_a_head_is_inherited_if_asked_for_and_said(digits, teacher, tmp_path, options, said):
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


def test_a_head_that_does_not_fit_is_said(digits, teacher, tmp_path):
    log = Said()
    distill = DistillConfig(teacher=str(teacher), method="none")
    learner(run_config(digits, tmp_path, distill=distill, detector={"family": "retinanet"}), log)
    assert "The student's head starts at random, for the teacher's does not fit." in log.lines


def test_a_teacher_that_gives_nothing_is_not_read(digits, tmp_path):
    distill = DistillConfig(teacher=str(tmp_path / "none"), method="none", inherit_head=False)
    assert learner(run_config(digits, tmp_path, distill=distill), Said()).student.family == "fcos"
