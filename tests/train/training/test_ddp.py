"""Two gloo processes on the CPU give the results of one process with the same batch."""

import contextlib
import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import pytest
import torch

import frs_train
from frs_train.cli.main import main
from frs_train.training.run_files import read_metrics

# The processes are forked from one that has imported everything and started no thread: each takes a second to
# start instead of five.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["frs_train.cli.main", "frs_train.training.run", "frs_train.evaluation.coco_metrics", "test_ddp"]
)

SHIPPED = Path(frs_train.__file__).parent / "digits_teacher.pt"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(arguments: list[str], environment: dict[str, str], out: Path):
    os.environ.update(environment)
    torch.set_num_threads(1)
    with out.open("w") as file, contextlib.redirect_stdout(file):
        code = main(arguments)
    sys.exit(code)


def launch(world, arguments, folder):
    """Runs the command line in `world` processes with the environment variables of torchrun."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    outputs = [folder / f"stdout{rank}" for rank in range(world)]
    processes = []
    for rank, out in enumerate(outputs):
        own = {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}
        processes.append(PROCESSES.Process(target=run, args=(arguments.split(), own, out)))
        processes[-1].start()
    for process in processes:
        process.join(300)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * world
    return [out.read_text() for out in outputs]


def options(folder, detector="retinanet"):
    return (
        f"--train-annotations {folder}/train.json --train-images {folder}/images --val-annotations "
        f"{folder}/val.json --val-images {folder}/images --detector {detector} --backbone resnet10 "
        "--backbone-width 0.25 --backbone-norm group --head-norm group --fpn-width 16 --head-convs 1 "
        "--min-size 64 --iterations 6 --batch-size 4 --lr-warmup 2 --workers 0 --device cpu --threads 1 "
        "--log-every 1"
    )


@pytest.fixture(scope="module")
def teacher(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    launch(1, f"train {options(digits)} --out {folder}/teacher", folder)
    return folder / "teacher"


@pytest.fixture(scope="module", params=["mask", "mask_all_levels"])
def runs(digits, teacher, tmp_path_factory, training_seed, request):
    """A folder with the same distillation by one process (`1`) and by two (`2`)."""
    folder = tmp_path_factory.mktemp("ddp")
    for world in (1, 2):
        launch(
            world,
            f"distill {options(digits)} --out {folder}/{world} --teacher {teacher} "
            f"--feat-weight 0.1 --head-weight 0.5 --warmup-iters 2 --normalizer {request.param} "
            f"--seed {training_seed}",
            folder,
        )
    return folder


def curves(folder, part="losses"):
    return [line[part] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "train"]


def difference(one, two, part="losses"):
    """The largest difference of two loss curves, relative to the first curve."""
    one, two = curves(one, part), curves(two, part)
    assert len(one) == len(two) == 6 and all(a.keys() == b.keys() for a, b in zip(one, two, strict=True))
    return max(abs(b[k] - a[k]) / max(abs(a[k]), 1e-6) for a, b in zip(one, two, strict=True) for k in a)


def test_loss_curve_equals_that_of_one_process(runs, bounded):
    bounded("difference", difference(runs / "1", runs / "2"), most=1e-4)


def test_shares_of_the_levels_equal_those_of_one_process(runs, bounded):
    assert curves(runs / "1", "levels")[-1]["head_level_4"] > 0
    bounded("difference", difference(runs / "1", runs / "2", "levels"), most=1e-4)


@pytest.mark.parametrize("method", ["kd", "cwd"])
def test_softmax_losses_equal_those_of_one_process(digits, tmp_path, method, training_seed, bounded):
    """With masks of all processes, and without any. The shipped teacher has learned something to compare."""
    for world in (1, 2):
        launch(
            world,
            f"distill {options(digits, 'fcos')} --out {tmp_path}/{world} --teacher {SHIPPED} "
            f"--method {method} --{method}-weight 10 --warmup-iters 2 --seed {training_seed}",
            tmp_path,
        )
    assert curves(tmp_path / "1")[-1][method] > 1
    for part in ("losses", "levels"):
        bounded(f"difference of {part}", difference(tmp_path / "1", tmp_path / "2", part), most=1e-4)


def test_ratios_are_measured_beside_gradients_that_processes_exchange(runs):
    for world in ("1", "2"):
        assert min(curves(runs / world, "ratios")[-1].values()) > 0


@pytest.mark.parametrize("detector", ["fcos", "gfl"])
def test_losses_are_divided_by_all_positives(digits, tmp_path, detector, training_seed, bounded):
    """The number of positives is that of all processes, although each has only a part of the objects."""
    for world in (1, 2):
        command = f"train {options(digits, detector)} --seed {training_seed} --out {tmp_path}/{world}"
        launch(world, command, tmp_path)
    bounded("difference", difference(tmp_path / "1", tmp_path / "2"), most=1e-4)


def test_evaluation_equals_that_of_one_process(digits, tmp_path):
    """The shipped teacher is evaluated, because a detector without detections always has the same scores."""
    files = f"--annotations {digits}/val.json --images {digits}/images --device cpu --workers 0"
    (alone,) = launch(1, f"eval {SHIPPED} {files}", tmp_path)
    first, second = launch(2, f"eval {SHIPPED} {files}", tmp_path)
    one, two = json.loads(alone), json.loads(first)
    assert second == "" and one["AP"] > 0.1
    assert two["AP"] == pytest.approx(one["AP"]) and two["classes"] == pytest.approx(one["classes"])
