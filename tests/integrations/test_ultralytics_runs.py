"""Whole runs of Ultralytics' trainers and of ours: epochs, checkpoints, compilation, several processes."""

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch._dynamo.testing import CompileCounterWithBackend

import frs_kernels as frs

pytest.importorskip("ultralytics", reason="needs ultralytics (pip install ultralytics)")

from ultralytics import YOLO  # noqa: E402
from ultralytics.models.yolo.segment import SegmentationTrainer  # noqa: E402
from ultralytics.nn.distill_model import DistillationModel  # noqa: E402
from ultralytics_pair import (  # noqa: E402
    MODELS,
    THEIR_TRAINERS,
    assert_same_gradients,
    batches,
    losses_and_gradients,
    prepared,
    settings,
    write_teacher,
)

from frs_kernels.integrations import ultralytics as integration  # noqa: E402
from frs_kernels.integrations.ultralytics import (  # noqa: E402
    TRAINERS,
    FRSOBBTrainer,
    FRSPoseTrainer,
    FRSSegmentationTrainer,
    FRSTrainer,
    use_frs_kernels,
)

OURS = {kind.task: kind for kind in TRAINERS}
each_task = pytest.mark.parametrize("task", OURS)
# Several processes run the same code for every task: one of them is enough at every change.
others_are_slow = pytest.mark.parametrize(
    "task", [pytest.param(task, marks=[pytest.mark.slow] * (task != "detect")) for task in OURS]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("yolo")


class Warming:
    head_weight = 0.5
    warmup_iters = 8


class WarmingTrainer(Warming, FRSTrainer):
    pass


class WarmingSegmentationTrainer(Warming, FRSSegmentationTrainer):
    pass


class WarmingPoseTrainer(Warming, FRSPoseTrainer):
    pass


class WarmingOBBTrainer(Warming, FRSOBBTrainer):
    pass


WARMING = {
    kind.task: kind
    for kind in (WarmingTrainer, WarmingSegmentationTrainer, WarmingPoseTrainer, WarmingOBBTrainer)
}


@pytest.fixture
def fused(monkeypatch) -> list:
    """Grows by one for every level whose loss a kernel computes."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return frs.weighted_mse(*args, **kwargs)

    monkeypatch.setattr(integration, "weighted_mse", counted)
    return calls


@each_task
def test_a_whole_training_has_the_losses_of_ultralytics_own(folder, task, fused):
    ends = []
    for kind in (THEIR_TRAINERS[task], OURS[task]):
        assert not fused
        trainer = kind(overrides=settings(folder, task, epochs=2, name=kind.__name__))
        losses = []
        trainer.add_callback("on_train_batch_end", lambda t, losses=losses: losses.append(dict(t.loss_items)))
        trainer.train()
        ends.append((losses, trainer.ema.ema.state_dict()))
    (their_losses, their_weights), (our_losses, our_weights) = ends
    assert len(our_losses) == 4 and len(fused) == 4 * 3
    for ours, theirs in zip(our_losses, their_losses, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(our_weights, their_weights, rtol=1e-3, atol=1e-3)


class OwnTrainer(SegmentationTrainer):
    def preprocess_batch(self, batch):
        self.seen = getattr(self, "seen", 0) + 1
        return super().preprocess_batch(batch)


class OwnFusedTrainer(FRSSegmentationTrainer, OwnTrainer):
    pass


def test_a_trainer_of_ones_own_gets_the_fused_loss(folder, fused):
    trainer = OwnFusedTrainer(overrides=settings(folder, "segment", epochs=1, name="own"))
    trainer.train()
    assert trainer.seen == 2 and len(fused) == 2 * 3


def test_the_head_weight_that_is_named_is_the_users_not_that_of_the_warm_up(folder, tmp_path):
    other = str(write_teacher(tmp_path / "other.pt", classes=5))
    trainer = WarmingTrainer(overrides=settings(folder, distill_model=other))
    with pytest.raises(ValueError, match=r"head_weight=0\.5 needs a teacher with the student's classes"):
        trainer.train()  # in its first batch, where the warm-up is 0


class Stop(Exception):
    pass


@each_task
def test_warm_up_counts_optimizer_steps_and_continues_from_a_checkpoint(folder, task, monkeypatch):
    steps, step = [], FRSTrainer.optimizer_step
    monkeypatch.setattr(FRSTrainer, "optimizer_step", lambda trainer: steps.append(step(trainer)))
    factors = []  # (optimizer steps done, the factor) at every batch

    def start(trainer):
        trainer.accumulate = 1 if not factors else 2  # as it grows in the warm-up of Ultralytics
        factors.append((len(steps), trainer.warmup_factor()))

    def stop(trainer):
        if trainer.epoch == 0:
            raise Stop

    name = f"resumed-{task}"
    first = WARMING[task](overrides=settings(folder, task, epochs=3, name=name, warmup_epochs=0))
    first.add_callback("on_train_batch_start", start)
    first.add_callback("on_fit_epoch_end", stop)
    with pytest.raises(Stop):
        first.train()
    assert factors == [(0, 0), (1, 1 / 8)]
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(first.last)
    assert not [name for name in foreign if name.startswith("frs_kernels")]

    kept = torch.load(first.last, weights_only=False)["ema"].projector.state_dict()
    seen = {}
    again = YOLO(first.last)
    again.add_callback("on_train_start", lambda t: seen.update(copy.deepcopy(t.model.projector.state_dict())))
    again.add_callback("on_train_batch_start", start)
    again.train(trainer=WARMING[task], resume=True)
    torch.testing.assert_close(seen, {name: value.float() for name, value in kept.items()})
    assert factors == [(done, done / 8) for done, _ in factors]
    assert len(steps) < len(factors) == 6
    student = YOLO(again.trainer.best)
    assert type(student.model) is MODELS[task] and student.task == task


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "obb"])  # the least and the most that is traced
def test_compile_is_kept_on(folder, task, monkeypatch):
    """Both networks are traced, forward and backward, with their hooks; no code is generated."""
    compile_it, backend = torch.nn.Module.compile, CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, mode: compile_it(module, backend=backend))
    losses = {}
    for wish in (False, "default"):
        name = f"compile-{wish}-{task}"
        trainer = OURS[task](overrides=settings(folder, task, epochs=1, compile=wish, name=name))
        losses[wish] = []
        trainer.add_callback("on_train_batch_end", lambda t, w=wish: losses[w].append(dict(t.loss_items)))
        trainer.train()
        assert torch.load(trainer.last, weights_only=False)["train_args"]["compile"] == wish
    torch.testing.assert_close(losses["default"], losses[False], rtol=1e-2, atol=1e-3)
    assert backend.frame_count >= 2
    assert backend.op_count > 500


@others_are_slow
def test_workers_of_a_multi_gpu_run_import_the_trainer_again(folder, task):
    """Runs the script that Ultralytics writes for every worker, on the CPU."""
    from ultralytics.utils.dist import ddp_cleanup, generate_ddp_file

    names = [f"{task}-worker", f"{task}-alone"]
    trainer, alone = (WARMING[task](overrides=settings(folder, task, epochs=1, name=name)) for name in names)
    alone.train()
    file = generate_ddp_file(trainer)
    try:
        paths = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(
            [sys.executable, file], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
        )
    finally:
        ddp_cleanup(trainer, file)
    assert done.returncode == 0, done.stderr[-2000:]
    results = [[float(value) for value in _results(folder / name)[2:]] for name in names]
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def _results(folder) -> list[str]:
    """The last line of a training's table; the first columns are epoch and time."""
    return (folder / "results.csv").read_text().splitlines()[-1].split(",")


def _rank(rank: int, folder, task: str, ours: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{task}-{ours}", rank=rank, world_size=2)
    trainer = prepared(THEIR_TRAINERS[task](overrides=settings(folder, task, name=f"rank{rank}", seed=0)))
    model = torch.nn.parallel.DistributedDataParallel(trainer.model, find_unused_parameters=True)
    batch = batches(trainer)[rank]
    original = DistillationModel.loss_sl2
    if ours:
        with use_frs_kernels(head_weight=0.0):
            result = losses_and_gradients(model, batch)
    else:
        result = losses_and_gradients(model, batch)
    assert DistillationModel.loss_sl2 is original
    torch.save(result, folder / f"{task}-{ours}{rank}.pt")
    dist.destroy_process_group()


@others_are_slow
def test_same_gradients_under_distributed_data_parallel(folder, task):
    settings(folder, task)
    for ours in (False, True):
        mp.spawn(_rank, args=(folder, task, ours), nprocs=2)
    for rank in range(2):
        (our_loss, ours), (their_loss, theirs) = (
            torch.load(folder / f"{task}-{which}{rank}.pt") for which in (True, False)
        )
        torch.testing.assert_close(our_loss, their_loss, rtol=1e-5, atol=0)
        assert_same_gradients(ours, theirs)
