"""The training loop: it learns, it can be stopped or killed and resumed, and its options work."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from tiny_detectors import FAMILIES
from tiny_runs import quiet_fit, run_config

from frs_train.config import DistillConfig
from frs_train.errors import Stopped, UserError
from frs_train.training import checkpoint, metrics
from frs_train.training.run_files import read_metrics


def weights(out):
    return checkpoint.newest(out, print)["model"]


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def losses(out):
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl") if line["kind"] == "train"]


def on_all_images(config):
    """The same images without augmentation in each iteration, so that losses can be compared."""
    return replace(
        config,
        data=replace(config.data, flip=0.0, jitter=0.0),
        train=replace(config.train, iterations=12, batch_size=12, lr=3e-3),
    )


def fall(values):
    """The fraction by which a loss decreased from start to end."""
    return 1 - sum(values[-3:]) / sum(values[:3])


@pytest.mark.parametrize("family", FAMILIES)
def test_training_reduces_the_loss(digits, tmp_path, family, training_seed, bounded):
    config = run_config(digits, tmp_path, detector={"family": family}, seed=training_seed)
    result = quiet_fit(on_all_images(config))
    bounded("fall of the loss", fall(losses(tmp_path)), least=0.1)
    assert result["iterations"] == 12 and 0 <= result["AP"] <= 1


def test_distillation_warms_up_and_reduces_the_feature_loss(
    digits, teacher, tmp_path, training_seed, bounded
):
    distill = DistillConfig(teacher=str(teacher), feat_weight=0.1, head_weight=1.0, warmup_iters=2)
    quiet_fit(on_all_images(run_config(digits, tmp_path, distill=distill, seed=training_seed)))
    lines = [line["losses"] for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "train"]
    assert lines[0]["frs_feature"] == lines[0]["frs_head"] == 0  # the first step of the warm-up
    assert lines[1]["frs_feature"] > 0 and lines[1]["frs_head"] > 0
    bounded("fall of the loss", fall([line["frs_feature"] for line in lines[2:]]), least=0.1)


@pytest.mark.parametrize(
    ("method", "family", "options"),
    [
        ("frs", "fcos", {}),
        ("frs", "fcos", {"ema": 0.9}),
        ("frs", "fcos", {"amp": "fp16"}),
        ("frs", "fcos", {"accumulate": 2}),
        ("ld", "gfl", {"accumulate": 2}),
        ("cwd", "fcos", {}),
        ("kd", "fcos", {"amp": "fp16"}),
    ],
)
def test_resumed_run_ends_with_the_same_weights(digits, teachers, tmp_path, method, family, options):
    distill = DistillConfig(teacher=str(teachers(family)), method=method, warmup_iters=4)
    whole = run_config(
        digits, tmp_path / "whole", distill=distill, detector={"family": family}, iterations=5, **options
    )
    quiet_fit(whole)
    half = replace(whole, out=tmp_path / "half", train=replace(whole.train, checkpoint_every=2, keep=9))
    quiet_fit(half)
    for path in checkpoint.checkpoints(half.out)[:-2]:
        path.unlink()  # as if the run had been killed after iteration 2
    quiet_fit(half, resume=True)
    one, other = (checkpoint.newest(run.out, print) for run in (whole, half))
    assert_same(one["model"], other["model"])
    assert_same(one["loss"], other["loss"])
    if one["ema"]:
        assert_same(one["ema"], other["ema"])
    assert losses(whole.out) == losses(half.out)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_metrics_have_the_share_of_every_level(digits, teacher, tmp_path, accumulate):
    distill = DistillConfig(teacher=str(teacher), warmup_iters=2)
    quiet_fit(run_config(digits, tmp_path, distill=distill, accumulate=accumulate))
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "train"]
    assert len(lines) == 4
    for line in lines:
        assert list(line["levels"]) == [f"{term}_level_{i}" for term in ("feature", "head") for i in range(5)]
        assert not line["levels"].keys() & line["losses"].keys()
        assert line["loss"] == pytest.approx(sum(line["losses"].values()))
        for term in ("feature", "head"):
            shares = [value for name, value in line["levels"].items() if name.startswith(term)]
            assert sum(shares) == pytest.approx(line["losses"][f"frs_{term}"], rel=1e-5)
    assert all(value > 0 for value in lines[-1]["levels"].values())


def test_metrics_without_a_teacher_have_no_levels(digits, tmp_path):
    quiet_fit(run_config(digits, tmp_path))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert all(line["levels"] == {} for line in lines if line["kind"] == "train")


def start(folder, out, iterations, *more):
    """A training in a separate process that saves after each iteration."""
    command = (
        f"-m frs_train train --detector fcos --train-annotations {folder}/train.json "
        f"--train-images {folder}/images --val-annotations {folder}/val.json --val-images {folder}/images "
        f"--backbone resnet10 --backbone-width 0.25 --fpn-width 16 --head-convs 1 --min-size 64 "
        f"--iterations {iterations} --batch-size 4 --workers 1 --device cpu --threads 1 --log-every 1 "
        f"--checkpoint-every 1 --jitter 0.2 --out {out}"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command.split(), *more],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def wait_for_checkpoint(process, out):
    deadline = time.monotonic() + 120
    while not checkpoint.checkpoints(out):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no checkpoint in two minutes"
        time.sleep(0.02)


def test_killed_and_resumed_run_ends_with_the_same_weights(digits, tmp_path):
    whole = start(digits, tmp_path / "whole", 8)
    killed = start(digits, tmp_path / "killed", 8)
    wait_for_checkpoint(killed, tmp_path / "killed")
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    resumed = start(digits, tmp_path / "killed", 8, "--resume")
    assert resumed.wait() == 0, resumed.stderr.read()
    assert whole.wait() == 0, whole.stderr.read()
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def test_sigterm_saves_and_exits(digits, tmp_path):
    process = start(digits, tmp_path / "run", 100000, "--checkpoint-every", "100000")
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(
        process.pid, signal.SIGTERM
    )  # the whole group with the loaders, as torchrun, schedulers and terminals do
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors and "--resume" in errors
    saved = checkpoint.newest(tmp_path / "run", print)
    assert 1 <= saved["iteration"] < 100000 and str(saved["iteration"]) in errors


def test_a_signal_during_fit_stops_it(digits, tmp_path, monkeypatch):
    def hit(self, iteration, record):
        if iteration == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    monkeypatch.setattr(metrics.Metrics, "train", hit)
    with pytest.raises(Stopped) as stopped:
        quiet_fit(run_config(digits, tmp_path))
    assert stopped.value.code == 143 and checkpoint.newest(tmp_path, print)["iteration"] == 2
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_finished_run_is_not_run_again(digits, teacher):
    before = (teacher / "metrics.jsonl").read_bytes()
    result = quiet_fit(run_config(digits, teacher), resume=True)
    assert result == json.loads((teacher / "result.json").read_text())
    assert (teacher / "metrics.jsonl").read_bytes() == before


def test_accumulation_equals_one_batch(digits, tmp_path):
    for parts in (1, 2):  # RetinaNet's losses are means over images
        config = run_config(digits, tmp_path / str(parts), accumulate=parts, detector={"family": "retinanet"})
        quiet_fit(config)
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "2"), rel=1e-4)


def test_several_scales_are_drawn(digits, tmp_path, monkeypatch):
    from frs_train.detectors import Detector

    seen, forward = [], Detector.forward

    def spy(self, images, targets=None, *, size=None, masks=False):
        seen.append(size)
        return forward(self, images, targets, size=size, masks=masks)

    monkeypatch.setattr(Detector, "forward", spy)
    quiet_fit(run_config(digits, tmp_path, detector={"min_size": (48, 64)}, iterations=8))
    assert set(seen) == {48, 64}


@pytest.mark.parametrize("options", [{"amp": "bf16"}, {"channels_last": True}, {"clip": 0.1}])
def test_precision_layout_and_clipping_change_the_losses_little(digits, tmp_path, options):
    quiet_fit(run_config(digits, tmp_path / "plain"))
    quiet_fit(run_config(digits, tmp_path / "option", **options))
    plain, option = losses(tmp_path / "plain"), losses(tmp_path / "option")
    assert option[0] == pytest.approx(plain[0], rel=0.02)
    assert option != plain or "clip" not in options


def test_the_moving_average_is_what_is_evaluated(digits, tmp_path):
    quiet_fit(run_config(digits, tmp_path, ema=0.5))
    saved = checkpoint.newest(tmp_path, print)
    detector, _ = checkpoint.restore(saved)
    assert_same(detector.state_dict(), saved["ema"])
    key = next(k for k in saved["ema"] if k.endswith("conv1.weight"))
    assert not torch.equal(saved["ema"][key], saved["model"][key])


def test_compiling_the_teacher_is_an_option_of_the_command_line():
    from frs_train.cli.main import parse

    _, config = parse("distill --out x --teacher t --teacher-compile".split())
    assert config.distill.teacher_compile and config.distill.method == "frs"


def test_unknown_device_is_a_user_error(digits, tmp_path):
    with pytest.raises(UserError, match="device"):
        quiet_fit(run_config(digits, tmp_path, device="nonsense"))
