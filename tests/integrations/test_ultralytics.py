"""Ultralytics' distillation with its own loss and with the fused one, for real models and real steps."""

import copy
import inspect
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
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.nn.distill_model import DistillationModel  # noqa: E402
from ultralytics_pair import (  # noqa: E402
    assert_same_gradients,
    losses_and_gradients,
    prepared,
    settings,
    write_teacher,
)

from frs_kernels.integrations import ultralytics as integration  # noqa: E402
from frs_kernels.integrations.ultralytics import FRSTrainer, use_frs_kernels  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("yolo")


def batches(trainer):
    """Batches as the trainer gives them to its model; the teacher's hooks see what it is called with."""
    return [trainer.preprocess_batch(batch) for batch in trainer.train_loader]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
def test_same_loss_and_gradients_at_every_step(folder, dtype):
    trainer = prepared(DetectionTrainer(overrides=settings(folder, multi_scale=0.5)))
    scale = 256.0 if dtype == torch.float16 else 1.0
    sizes = set()
    for batch in batches(trainer) * 2:
        sizes.add(batch["img"].shape[-1])
        theirs, their_grads = losses_and_gradients(trainer.model, batch, dtype, scale)
        with use_frs_kernels():
            ours, our_grads = losses_and_gradients(trainer.model, batch, dtype, scale)
        assert theirs > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
        exact = None if dtype is None else losses_and_gradients(trainer.model, batch)[1]
        assert_same_gradients(our_grads, their_grads, exact)
        for name, p in trainer.model.named_parameters():
            if name in their_grads:
                p.data -= 0.01 * their_grads[name]
    if dtype is None:
        assert len(sizes) > 1, "multi_scale has not changed the size"


def test_a_whole_training_has_the_losses_of_ultralytics_own(folder):
    ends = []
    for kind in (DetectionTrainer, FRSTrainer):
        trainer = kind(overrides=settings(folder, epochs=2, name=kind.__name__))
        losses = []
        trainer.add_callback("on_train_batch_end", lambda t, losses=losses: losses.append(dict(t.loss_items)))
        trainer.train()
        ends.append((losses, trainer.ema.ema.state_dict()))
    (their_losses, their_weights), (our_losses, our_weights) = ends
    assert len(our_losses) == 4
    for ours, theirs in zip(our_losses, their_losses, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(our_weights, their_weights, rtol=1e-3, atol=1e-3)


def test_the_method_of_the_class_is_restored(folder):
    theirs = DistillationModel.loss_sl2
    with pytest.raises(KeyError), use_frs_kernels():
        assert DistillationModel.loss_sl2 is not theirs
        with use_frs_kernels(head_weight=1.0):
            pass
        raise KeyError
    assert DistillationModel.loss_sl2 is theirs


def test_head_term_is_the_weighted_cross_entropy_of_both_branches(folder):
    trainer = prepared(DetectionTrainer(overrides=settings(folder)))
    batch = batches(trainer)[0]
    model = trainer.model
    plain, _ = losses_and_gradients(model, batch)
    with use_frs_kernels(head_weight=0.5):
        both, grads = losses_and_gradients(model, batch)
    *neck, (_, teacher) = model._teacher_feats.values()
    *_, student = model._student_feats.values()
    sizes = [feat.shape[-2:].numel() for feat in neck]
    average = sum(teacher[branch]["scores"] for branch in ("one2many", "one2one")) / 2
    masks = [part.sigmoid().amax(1) for part in average.split(sizes, -1)]
    expected = 0.0
    for branch in ("one2many", "one2one"):
        pair = (each[branch]["scores"].detach().split(sizes, -1) for each in (student, teacher))
        expected += 0.5 * frs.reference.weighted_bce(*pair, masks)
    torch.testing.assert_close(both, plain + model.dis * 0.5 * expected, rtol=1e-4, atol=1e-5)
    assert grads["student_model.model.23.one2one_cv3.0.2.weight"].abs().sum() > 0


def test_head_term_needs_a_teacher_with_the_students_classes(folder, tmp_path):
    other = str(write_teacher(tmp_path / "other.pt", classes=5))
    trainer = prepared(DetectionTrainer(overrides=settings(folder, distill_model=other)))
    batch = batches(trainer)[0]
    losses_and_gradients(trainer.model, batch)  # the imitation term alone compares no classes
    with (
        use_frs_kernels(head_weight=0.5),
        pytest.raises(ValueError, match="head_weight=0.5 needs a teacher with the student's classes"),
    ):
        losses_and_gradients(trainer.model, batch)


def test_the_head_weight_that_is_named_is_the_users_not_that_of_the_warm_up(folder, tmp_path):
    other = str(write_teacher(tmp_path / "other.pt", classes=5))
    trainer = WarmingTrainer(overrides=settings(folder, distill_model=other))
    with pytest.raises(ValueError, match=r"head_weight=0\.5 needs a teacher with the student's classes"):
        trainer.train()  # in its first batch, where the warm-up is 0


@pytest.mark.parametrize(
    ("config", "task"),
    [("yolo26n-seg.yaml", "segment"), ("yolo26n-pose.yaml", "pose"), ("yolo26n-obb.yaml", "obb")],
)
def test_a_model_of_another_task_raises_before_it_trains(folder, config, task):
    started = []
    model = YOLO(config)
    model.add_callback("on_train_start", started.append)
    others = settings(folder)
    del others["model"]
    message = f"models for the task detect, {config} is for the task {task}.*use_frs_kernels"
    with pytest.raises(ValueError, match=message):
        model.train(trainer=FRSTrainer, **others)
    assert not started


class WarmingTrainer(FRSTrainer):
    head_weight = 0.5
    warmup_iters = 8


class Stop(Exception):
    pass


def test_warm_up_counts_optimizer_steps_and_continues_from_a_checkpoint(folder, monkeypatch):
    steps, step = [], FRSTrainer.optimizer_step
    monkeypatch.setattr(FRSTrainer, "optimizer_step", lambda trainer: steps.append(step(trainer)))
    factors = []  # (optimizer steps done, the factor) at every batch

    def start(trainer):
        trainer.accumulate = 1 if not factors else 2  # as it grows in the warm-up of Ultralytics
        factors.append((len(steps), trainer.warmup_factor()))

    def stop(trainer):
        if trainer.epoch == 0:
            raise Stop

    first = WarmingTrainer(overrides=settings(folder, epochs=3, name="resumed", warmup_epochs=0))
    first.add_callback("on_train_batch_start", start)
    first.add_callback("on_fit_epoch_end", stop)
    with pytest.raises(Stop):
        first.train()
    assert factors == [(0, 0), (1, 1 / 8)]
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(first.last)
    assert not [name for name in foreign if name.startswith("frs_kernels")]

    kept = torch.load(first.last, weights_only=False)["ema"].projector.state_dict()
    seen = {}
    again = WarmingTrainer(overrides={"resume": str(first.last), "model": str(first.last)})
    again.add_callback("on_train_start", lambda t: seen.update(copy.deepcopy(t.model.projector.state_dict())))
    again.add_callback("on_train_batch_start", start)
    again.train()
    torch.testing.assert_close(seen, {name: value.float() for name, value in kept.items()})
    assert factors == [(done, done / 8) for done, _ in factors]
    assert len(steps) < len(factors) == 6
    student = YOLO(again.best)
    assert type(student.model).__name__ == "DetectionModel"


@pytest.mark.slow
def test_compile_is_kept_on(folder, monkeypatch):
    """Both networks are traced, forward and backward, with their hooks; no code is generated."""
    compile_it, backend = torch.nn.Module.compile, CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, mode: compile_it(module, backend=backend))
    losses = {}
    for wish in (False, "default"):
        trainer = FRSTrainer(overrides=settings(folder, epochs=1, compile=wish, name=f"compile-{wish}"))
        losses[wish] = []
        trainer.add_callback("on_train_batch_end", lambda t, w=wish: losses[w].append(dict(t.loss_items)))
        trainer.train()
        assert torch.load(trainer.last, weights_only=False)["train_args"]["compile"] == wish
    torch.testing.assert_close(losses["default"], losses[False], rtol=1e-2, atol=1e-3)
    assert backend.frame_count >= 2
    assert backend.op_count > 500


def test_workers_of_a_multi_gpu_run_import_the_trainer_again(folder):
    """Runs the script that Ultralytics writes for every worker, on the CPU."""
    from ultralytics.utils.dist import ddp_cleanup, generate_ddp_file

    alone = WarmingTrainer(overrides=settings(folder, epochs=1, name="alone"))
    alone.train()
    trainer = WarmingTrainer(overrides=settings(folder, epochs=1, name="worker"))
    file = generate_ddp_file(trainer)
    try:
        paths = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(
            [sys.executable, file], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
        )
    finally:
        ddp_cleanup(trainer, file)
    assert done.returncode == 0, done.stderr[-2000:]
    results = [[float(value) for value in _results(folder / name)[2:]] for name in ("worker", "alone")]
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def _results(folder) -> list[str]:
    """The last line of a training's table; the first columns are epoch and time."""
    return (folder / "results.csv").read_text().splitlines()[-1].split(",")


def _rank(rank: int, folder, ours: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/{ours}", rank=rank, world_size=2)
    trainer = prepared(DetectionTrainer(overrides=settings(folder, name=f"rank{rank}", seed=0)))
    model = torch.nn.parallel.DistributedDataParallel(trainer.model, find_unused_parameters=True)
    batch = batches(trainer)[rank]
    original = DistillationModel.loss_sl2
    if ours:
        with use_frs_kernels(head_weight=0.0):
            result = losses_and_gradients(model, batch)
    else:
        result = losses_and_gradients(model, batch)
    assert DistillationModel.loss_sl2 is original
    torch.save(result, folder / f"{ours}{rank}.pt")
    dist.destroy_process_group()


def test_same_gradients_under_distributed_data_parallel(folder):
    settings(folder)
    for ours in (False, True):
        mp.spawn(_rank, args=(folder, ours), nprocs=2)
    for rank in range(2):
        (our_loss, ours), (their_loss, theirs) = (torch.load(folder / f"{w}{rank}.pt") for w in (True, False))
        torch.testing.assert_close(our_loss, their_loss, rtol=1e-5, atol=0)
        assert_same_gradients(ours, theirs)


def test_frs_trainer_needs_a_teacher(folder):
    with pytest.raises(ValueError, match="pass train.* distill_model="):
        FRSTrainer(overrides=settings(folder, distill_model=None))


def test_a_version_with_another_loss_method_is_named(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(DistillationModel, "loss_sl2", lambda self, student, teacher: None)
        with pytest.raises(
            RuntimeError, match=r"ultralytics 8\..* has DistillationModel.loss_sl2 with arguments"
        ):
            FRSTrainer(overrides=settings(folder))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ultralytics.nn.distill_model", None)
        with pytest.raises(RuntimeError, match='pip install "ultralytics'), use_frs_kernels():
            pass
    assert inspect.signature(DistillationModel.loss_sl2)
    assert integration.distillation_model() is DistillationModel
