"""A real YOLO26 teacher and student with random weights, for Ultralytics' own trainers."""

import contextlib
from pathlib import Path

import torch
from tiny_data import write_yolo_dataset
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.obb import OBBTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.nn.tasks import DetectionModel, OBBModel, PoseModel, SegmentationModel

THEIR_TRAINERS = {
    "detect": DetectionTrainer, "segment": SegmentationTrainer, "pose": PoseTrainer, "obb": OBBTrainer,
}  # fmt: skip
MODELS = {"detect": DetectionModel, "segment": SegmentationModel, "pose": PoseModel, "obb": OBBModel}
SUFFIXES = {"detect": "", "segment": "-seg", "pose": "-pose", "obb": "-obb"}


def config(task: str, scale: str) -> str:
    """The configuration of YOLO26 of that scale for a task."""
    return f"yolo26{scale}{SUFFIXES[task]}.yaml"


def write_teacher(path: Path, classes: int = 2, task: str = "detect") -> Path:
    """A teacher whose class scores and features have the magnitudes of a trained one's."""
    torch.manual_seed(1)
    model = MODELS[task](config(task, "s"), nc=classes, verbose=False)
    head = model.model[-1]
    with torch.no_grad():
        for branch in (head.cv3, head.one2one_cv3):
            for level in branch:
                level[-1].bias.uniform_(-3, 1)
    torch.save({"model": model}, path)
    return path


def settings(folder: Path, task: str = "detect", **others) -> dict:
    """Overrides for a trainer, with the data and the teacher of the task in ``folder``."""
    data, teacher = folder / f"{task}-data", folder / f"{task}-teacher.pt"
    if not data.exists():
        write_yolo_dataset(data, task=task)
        write_teacher(teacher, task=task)
    return {
        "model": config(task, "n"), "distill_model": str(teacher), "data": str(data / "data.yaml"),
        "epochs": 2, "imgsz": 64, "batch": 4, "nbs": 4, "optimizer": "SGD", "device": "cpu", "plots": False,
        "val": False, "amp": False, "project": str(folder), "exist_ok": True, "workers": 0, "mosaic": 0.0,
    } | others  # fmt: skip


def prepared(trainer: DetectionTrainer) -> DetectionTrainer:
    """The trainer as it is when its first epoch begins."""
    trainer._setup_train()
    trainer.epoch = 0
    trainer._model_train()
    return trainer


def batches(trainer: DetectionTrainer) -> list:
    """Batches as the trainer gives them to its model; the teacher's hooks see what it is called with."""
    return [trainer.preprocess_batch(batch) for batch in trainer.train_loader]


def losses_and_gradients(model, batch, dtype: torch.dtype | None = None, scale: float = 1.0):
    """(distillation loss, gradient of every parameter) of one batch, under autocast if there is a dtype."""
    model.zero_grad(set_to_none=True)
    cast = contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype)
    with cast:
        loss, _ = model(dict(batch))
    (loss.sum() * scale).backward()
    grads = {name: p.grad / scale for name, p in model.named_parameters() if p.grad is not None}
    return loss[-1].detach() / len(batch["img"]), grads


def assert_same_gradients(ours: dict, theirs: dict, exact: dict | None = None) -> None:
    """Compares all gradients together, and each of the adapters', which are closest to the loss.

    Without ``exact`` they agree to 1e-4. With ``exact``, which is ``theirs`` in float32, the difference
    between ours and theirs is no larger than the error of theirs by half precision: a batch normalisation
    over few values amplifies rounding errors.
    """
    assert ours.keys() == theirs.keys()
    adapters = [[name] for name in theirs if "projector" in name]
    for names in (list(theirs), *adapters):
        error = _distance(ours, theirs, names)
        allowed = 1e-4 * _distance(theirs, None, names) if exact is None else _distance(theirs, exact, names)
        assert error <= allowed, f"{names[0]} and {len(names) - 1} others: {error:.3g}, allowed {allowed:.3g}"


def _distance(grads: dict, other: dict | None, names: list) -> torch.Tensor:
    return torch.stack([(grads[name] - (other[name] if other else 0)).norm() for name in names]).norm()
