"""Ultralytics' distillation with its own loss and with the fused one, for real models and real steps."""

import inspect
import itertools
import sys

import pytest
import torch

import frs_kernels as frs

pytest.importorskip("ultralytics", reason="needs ultralytics (pip install ultralytics)")

from ultralytics import RTDETR, YOLO  # noqa: E402
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.nn import tasks  # noqa: E402
from ultralytics.nn.distill_model import DistillationModel  # noqa: E402
from ultralytics_pair import (  # noqa: E402
    THEIR_TRAINERS,
    assert_same_gradients,
    batches,
    config,
    losses_and_gradients,
    prepared,
    settings,
    write_teacher,
)

from frs_kernels.integrations import ultralytics as integration  # noqa: E402
from frs_kernels.integrations.ultralytics import TRAINERS, FRSTrainer, use_frs_kernels  # noqa: E402

has_depth = pytest.mark.skipif(not hasattr(tasks, "DepthModel"), reason="8.4.80 has no models of depth")
each_task = pytest.mark.parametrize("task", THEIR_TRAINERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("yolo")


@pytest.mark.parametrize(
    ("task", "dtype"),
    [
        *((task, dtype) for task in THEIR_TRAINERS for dtype in (None, torch.float16)),
        ("detect", torch.bfloat16),
    ],
    ids=str,
)
def test_same_loss_and_gradients_at_every_step(folder, task, dtype):
    trainer = prepared(THEIR_TRAINERS[task](overrides=settings(folder, task, multi_scale=0.5)))
    scale = 16.0 if dtype == torch.float16 else 1.0
    sizes = set()
    for batch in batches(trainer) * (2 if task == "detect" else 1):
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


def test_the_method_of_the_class_is_restored(folder):
    theirs = DistillationModel.loss_sl2
    with pytest.raises(KeyError), use_frs_kernels():
        assert DistillationModel.loss_sl2 is not theirs
        with use_frs_kernels(head_weight=1.0):
            pass
        raise KeyError
    assert DistillationModel.loss_sl2 is theirs


@each_task
def test_head_term_is_the_weighted_cross_entropy_of_both_branches(folder, task):
    trainer = prepared(THEIR_TRAINERS[task](overrides=settings(folder, task)))
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


@pytest.mark.parametrize(("kind", "right"), list(itertools.permutations(TRAINERS, 2)))
def test_a_trainer_of_another_task_names_the_right_one_before_it_trains(folder, kind, right):
    name = config(right.task, "n")
    message = (
        f"{kind.__name__} .* the task {kind.task}, {name} .* the task {right.task}: take {right.__name__}$"
    )
    others = settings(folder, kind.task, model=name)
    with pytest.raises(ValueError, match=message):
        prepared(kind(overrides=others))
    del others["model"]
    with pytest.raises(ValueError, match=message):
        YOLO(name).train(trainer=kind, **others)


@pytest.mark.parametrize(
    ("make", "name", "task"),
    [
        (YOLO, "yolo26n-sem.yaml", "semantic"), (YOLO, "yolo26n-cls.yaml", "classify"),
        (RTDETR, "rtdetr-l.yaml", "unknown"),
        pytest.param(YOLO, "yolo26n-depth.yaml", "depth", marks=has_depth),
    ],
)  # fmt: skip
def test_what_ultralytics_does_not_distil_is_said_to_be_so(folder, make, name, task):
    model = make(name)
    with pytest.raises(ValueError, match="Detect head"):
        DistillationModel.get_distill_layers(model.model)
    others = settings(folder)
    del others["model"]
    message = f"{name} cannot be distilled, its task is {task}: Ultralytics .* detect, segment, pose, obb$"
    with pytest.raises(ValueError, match=message):
        model.train(trainer=FRSTrainer, **others)


def test_a_teacher_may_be_of_another_task(folder):
    detector = settings(folder)["distill_model"]
    overrides = settings(folder, "segment", distill_model=detector)
    trainer = prepared(THEIR_TRAINERS["segment"](overrides=overrides))
    batch = batches(trainer)[0]
    theirs, their_grads = losses_and_gradients(trainer.model, batch)
    with use_frs_kernels():
        ours, our_grads = losses_and_gradients(trainer.model, batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    assert_same_gradients(our_grads, their_grads)
    with use_frs_kernels(head_weight=0.5):
        assert losses_and_gradients(trainer.model, batch)[0] > theirs


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_trainer_needs_a_teacher(folder, kind):
    with pytest.raises(ValueError, match=f"{kind.__name__} needs a teacher: pass train.* distill_model="):
        kind(overrides=settings(folder, kind.task, distill_model=None))


def test_the_settings_that_a_trainer_is_given_stay_as_they_are(folder):
    given = settings(folder, "pose")
    copied = dict(given)
    integration.FRSPoseTrainer(overrides=given)
    assert given == copied


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
