"""Two gloo processes on the CPU do what one does with the same global batch."""

import json
import os
import socket
import subprocess
import sys

import pytest

from frs_train import metrics


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(world, arguments):
    """Runs `python -m frs_train` in `world` processes, as torchrun would start them."""
    port = str(free_port())
    processes = []
    for rank in range(world):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            **place,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "frs_train", *arguments.split()],
            env=environment if world > 1 else {**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
    outputs = [process.communicate(timeout=300) for process in processes]
    assert all(p.returncode == 0 for p in processes), "\n".join(errors for _, errors in outputs)
    return [out for out, _ in outputs]


def options(folder, detector="retinanet"):
    return (
        f"--train-annotations {folder}/train.json --train-images {folder}/images --val-annotations "
        f"{folder}/val.json --val-images {folder}/images --detector {detector} --backbone resnet10 "
        "--backbone-width 0.25 --backbone-norm group --head-norm group --fpn-width 16 --head-convs 1 "
        "--min-size 64 --iterations 6 --batch-size 4 --lr-warmup 2 --workers 0 --device cpu --threads 1 "
        "--log-every 1"
    )


@pytest.fixture(scope="module")
def runs(digits, tmp_path_factory):
    """The folders of the same distillation by one process and by two, and the evaluation by two."""
    folder = tmp_path_factory.mktemp("ddp")
    launch(1, f"train {options(digits)} --out {folder}/teacher")
    for world in (1, 2):
        launch(
            world,
            f"distill {options(digits)} --out {folder}/{world} --teacher {folder}/teacher "
            "--feat-weight 0.1 --head-weight 0.5 --warmup-iters 2",
        )
    outputs = launch(
        2, f"eval {folder}/1 --annotations {digits}/val.json --images {digits}/images --device cpu"
    )
    return folder, outputs


def records(folder, kind):
    return [line for line in metrics.read(folder / "metrics.jsonl") if line["kind"] == kind]


def assert_same_losses(one, two):
    one, two = records(one, "train"), records(two, "train")
    assert len(one) == len(two) == 6
    for first, second in zip(one, two, strict=True):
        assert second["losses"] == pytest.approx(first["losses"], rel=1e-5)


def test_the_loss_curve_is_that_of_one_process(runs):
    assert_same_losses(runs[0] / "1", runs[0] / "2")


@pytest.mark.parametrize("detector", ["fcos", "gfl"])
def test_losses_divided_by_a_count_of_positives(digits, tmp_path, detector):
    """The count is that of all processes, though each sees its own share of the objects."""
    for world in (1, 2):
        launch(world, f"train {options(digits, detector)} --out {tmp_path}/{world}")
    assert_same_losses(tmp_path / "1", tmp_path / "2")


def test_the_evaluation_is_that_of_one_process(runs):
    one, two = (records(runs[0] / world, "eval")[-1] for world in ("1", "2"))
    assert two["AP"] == pytest.approx(one["AP"], abs=0.02)
    first, *rest = runs[1]
    again = json.loads(first)  # the weights of one process, evaluated by two
    assert rest == [""] and {k: again[k] for k in ("AP", "AP50")} == pytest.approx(
        {k: one[k] for k in ("AP", "AP50")}
    )
