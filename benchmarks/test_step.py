"""A whole training step: this project's way, the official way, and the student without a teacher, in turns.

The official way, as the FRS authors' detectors do it: the student's head runs a second time for the
distillation, the frozen teacher runs in float32 with its box branch, and the losses are eager. Ours is what
``frs-train`` does, with the teacher in the student's precision.
"""

import statistics
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from benchmarks import memory, timers
from benchmarks.measure import rounds_for
from benchmarks.providers import Official
from frs_kernels import FeatureAdapter, split_levels

for module in ("torchvision", "tyro"):
    pytest.importorskip(module, reason=f"a training step needs frs_train, which needs {module}")

from frs_train.config import DetectorConfig, DistillConfig  # noqa: E402
from frs_train.detectors import build_detector  # noqa: E402
from frs_train.distiller import Distiller, Learner, autocast, prepare_teacher  # noqa: E402


@dataclass(frozen=True)
class Step:
    """RetinaNet from a deeper teacher, 80 classes, SGD; ``amp`` as in TrainConfig."""

    teacher: str
    student: str
    batch: int
    height: int
    width: int
    amp: str
    feat_width: int = 256

    def __str__(self) -> str:
        return f"{self.teacher}-{self.student}-b{self.batch}-{self.height}x{self.width}-{self.amp}"

    def detector(self, backbone: str):
        short, long = sorted((self.height, self.width))
        config = DetectorConfig(
            backbone=backbone, fpn_width=self.feat_width, min_size=(short,), max_size=long
        )
        return build_detector(config, num_classes=80)


STEPS = {
    ("cpu", "small"): [Step("resnet18", "resnet10", 1, 96, 128, "none", feat_width=64)],
    ("cpu", "standard"): [Step("resnet34", "resnet18", 2, 256, 320, "none")],
    ("cpu", "full"): [Step("resnet101", "resnet50", 2, 480, 640, "none")],
    ("cuda", "small"): [],
    ("cuda", "standard"): [Step("resnet101", "resnet50", 8, 800, 1344, "bf16")],
    ("cuda", "full"): [Step("resnet101", "resnet50", 8, 800, 1344, amp) for amp in ("bf16", "none")],
}


class OfficialLearner(Learner):
    """forward(images, targets, size) -> losses, the official way."""

    def __init__(self, student, teacher):
        super().__init__(student)
        self.teacher = [teacher.requires_grad_(False)]  # no submodule: neither saved nor trained
        self.adapter = FeatureAdapter(student.feat_channels, teacher.feat_channels, len(student.strides))

    def forward(self, images, targets, size):
        (teacher,) = self.teacher
        outputs = self.student(images, targets, size=size)
        again = self._head(self.student, outputs.feats)
        with torch.autocast(images[0].device.type, enabled=False):
            batch, _ = teacher.prepare(images, None, size)
            feats = teacher.features(batch)
            logits = self._head(teacher, feats)
            adapted = self.adapter([feat.float() for feat in outputs.feats])
            again = [level.float() for level in again]
            distilled = Official.loss(adapted, feats, again, logits)
        return {**outputs.losses, "frs": distilled}

    @staticmethod
    def _head(detector, feats):
        sizes = [feat.shape[-2:] for feat in feats]
        return split_levels(detector.run_head(feats)["cls_logits"], sizes, detector.num_anchors)


def test_step(step, benchmark, device, seconds):
    turns = {way: [] for way in ("ours", "official", "no teacher")}
    now = timers.clock(device)
    for run in _runs(step, device).values():
        run()  # on models thrown away: what is made at first use must not count as one way's memory
    runs = _runs(step, device)
    peaks = {way: memory.peak_added(lambda run=run: (run(), run()), device) for way, run in runs.items()}
    once = sum(timers.timed(now, run) for run in runs.values())

    def others_turns():
        for way in ("official", "no teacher"):
            turns[way].append(timers.timed(now, runs[way]))

    benchmark.pedantic(runs["ours"], setup=others_turns, rounds=rounds_for(once, 8 * seconds))
    turns["ours"] = list(benchmark.stats.stats.data)
    medians = {way: {"median": statistics.median(values)} for way, values in turns.items()}
    benchmark.extra_info.update(step=str(step), turns=medians, peak_bytes=peaks)


def _runs(step: Step, device: str):
    """A step of each way, its first one still to come: gradients and momentum are not there yet."""
    images, targets = _data(step, device)
    learners = _learners(step, torch.device(device))
    return {way: _training_step(step, learner, images, targets) for way, learner in learners.items()}


def _learners(step: Step, device: torch.device) -> dict[str, nn.Module]:
    def pair():
        torch.manual_seed(0)
        return step.detector(step.student).to(device), step.detector(step.teacher).to(device).eval()

    student, teacher = pair()
    config = DistillConfig(teacher_amp=step.amp, inherit_head=False)
    ours = Distiller(student, prepare_teacher(teacher, student, config, device), config, True, pytest.fail)
    learners = {"ours": ours, "official": OfficialLearner(*pair()), "no teacher": Learner(pair()[0])}
    return {way: learner.to(device).train() for way, learner in learners.items()}


def _training_step(step: Step, learner: nn.Module, images, targets):
    # A rate of 0: the same work, and no number of rounds on one random batch lets a detector diverge.
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=0.0, momentum=0.9)
    size = min(step.height, step.width)

    def run():
        optimizer.zero_grad(set_to_none=True)
        with autocast(images[0].device, step.amp):
            losses = learner(images, targets, size)
        sum(losses.values()).backward()
        optimizer.step()

    return run


def _data(step: Step, device: str):
    torch.manual_seed(1)
    images = [torch.rand(3, step.height, step.width, device=device) for _ in range(step.batch)]
    corners = torch.rand(step.batch, 8, 2, device=device) * 0.6
    boxes = torch.cat([corners, corners + 0.1 + 0.3 * torch.rand_like(corners)], dim=2)
    boxes = boxes * torch.tensor([step.width, step.height] * 2, device=device)
    labels = torch.randint(1, 81, (step.batch, 8), device=device)
    return images, [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
