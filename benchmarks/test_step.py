"""Races of a whole training step: this project's way, the official way, and the student without a teacher.

The official way is that of the FRS authors' detectors: the student's head runs a second time for the
distillation, the frozen teacher runs in float32 with its box branch, and the losses are eager. Ours is what
``frs-train`` does, with the teacher in the student's precision. In mixed precision the official way is also
measured with such a teacher, so that the effect of the precision is visible.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from benchmarks import memory, timers
from benchmarks.measure import rounds_for
from benchmarks.providers import Official
from benchmarks.tables import TEACHERS
from frs_kernels import FeatureAdapter, split_levels

for module in ("torchvision", "tyro"):
    pytest.importorskip(module, reason=f"a training step needs frs_train, which needs {module}")

from frs_train.config import DetectorConfig, DistillConfig  # noqa: E402
from frs_train.detectors import build_detector  # noqa: E402
from frs_train.training.distillation import DistilledLearner  # noqa: E402
from frs_train.training.learner import Learner, autocast  # noqa: E402
from frs_train.training.teacher import prepare_teacher  # noqa: E402

PARTS = ("teacher", "student", "adapters", "loss", "backward", "optimizer")  # of our step, in this order


@dataclass(frozen=True)
class Step:
    """A RetinaNet that learns from a deeper one, 80 classes, SGD; ``amp`` as in TrainConfig."""

    teacher: str
    student: str
    batch: int
    height: int
    width: int
    amp: str
    feat_width: int = 256

    def __str__(self) -> str:
        return f"{self.teacher}-{self.student}-b{self.batch}-{self.height}x{self.width}-{self.amp}"

    @property
    def ways(self) -> list[str]:
        official = ["official"] if self.amp == "none" else ["official", f"official, {self.amp} teacher"]
        return ["ours", *official, "no teacher"]

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
    ("cuda", "standard"): [Step("resnet101", "resnet50", 8, 800, 1344, "bf16")],
    ("cuda", "full"): [Step("resnet101", "resnet50", 8, 800, 1344, amp) for amp in ("bf16", "none")],
}


class OfficialLearner(Learner):
    """forward(images, targets, size) -> losses, computed the official way."""

    def __init__(self, student, teacher, teacher_amp: str):
        super().__init__(student)
        self._teacher = (teacher.requires_grad_(False),)  # in a tuple: not a registered submodule
        self.teacher_amp = teacher_amp
        self.adapter = FeatureAdapter(student.feat_channels, teacher.feat_channels, len(student.strides))

    @property
    def teacher(self):
        return self._teacher[0]

    def forward(self, images, targets, size):
        outputs = self.student(images, targets, size=size)
        adapted = self.adapter(outputs.feats)
        again = self._head(self.student, outputs.feats)
        with autocast(images[0].device, self.teacher_amp):
            batch, _ = self.teacher.prepare(images, None, size)
            feats = self.teacher.features(batch)
            logits = self._head(self.teacher, feats)
        with torch.autocast(images[0].device.type, enabled=False):
            tensors = adapted, feats, again, logits
            distilled = Official.loss(*([level.float() for level in levels] for levels in tensors))
        return {**outputs.losses, "frs": distilled}

    @staticmethod
    def _head(detector, feats):
        sizes = [feat.shape[-2:] for feat in feats]
        return split_levels(detector.run_head(feats)["cls_logits"], sizes, detector.num_anchors)


class Training:
    """A way's training on one random batch. Each call is a step.

    Gradients and momentum are allocated in the first one.
    """

    def __init__(self, step: Step, way: str, device: str):
        self.step = step
        self.images, self.targets = _data(step, device)
        self.learner = _learner(step, way, torch.device(device)).to(device).train()
        trained = [p for p in self.learner.parameters() if p.requires_grad]
        # A learning rate of 0 is the same work, and a detector cannot diverge on its one random batch.
        self.optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9)
        if way == "ours":
            self.learner.loss.count_steps(self.optimizer)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.images[0].device, self.step.amp):
            losses = self.learner(self.images, self.targets, min(self.step.height, self.step.width))
        sum(losses.values()).backward()
        self.optimizer.step()

    def teach(self) -> None:
        """The teacher's own forward in our precision: features and logits of the batch, without masks."""
        with torch.inference_mode(), autocast(self.images[0].device, self.step.amp):
            self.learner.teacher(self.images, size=min(self.step.height, self.step.width))


def test_step(step, benchmark, device, seconds):
    now = timers.clock(device)
    trainings, peaks = _that_fit(step, device)
    if "ours" not in trainings:
        pytest.skip(f"our way needs more memory than this GPU has: {step}")
    turns = {way: [] for way in trainings}
    # Our teacher is prepared for speed. The official way's is as it was built.
    teachers = dict(zip(TEACHERS, map(trainings.get, ("ours", "official")), strict=True))
    teachers = {name: training for name, training in teachers.items() if training}
    alone = {name: [] for name in teachers}
    once = sum(timers.timed(now, training) for training in trainings.values())

    def others_turns():
        for name, training in teachers.items():
            alone[name].append(timers.timed(now, training.teach))
        for way, training in trainings.items():
            if way != "ours":
                turns[way].append(timers.timed(now, training))
        if device == "cuda":
            timers.let_host_run_ahead()  # pytest-benchmark times our way next

    benchmark.pedantic(trainings["ours"], setup=others_turns, rounds=rounds_for(once, 8 * seconds))
    turns["ours"] = list(benchmark.stats.stats.data)
    parts = _parts(trainings["ours"], device, rounds=rounds_for(once, 2 * seconds))
    trainings.clear()  # frees their memory
    teachers.clear()
    benchmark.extra_info.update(
        step=str(step), turns={way: timers.spread(values) for way, values in turns.items()}, parts=parts,
        teacher_alone={name: timers.spread(values) for name, values in alone.items()}, peak_bytes=peaks,
        largest_batch={way: _largest_batch(step, way, device) for way in step.ways if way not in peaks},
    )  # fmt: skip


def _that_fit(step: Step, device: str) -> tuple[dict[str, Training], dict[str, int | None]]:
    """The trainings that fit into the GPU's memory together, and the bytes that each adds at its peak."""
    trainings, peaks = {}, {}
    for way in step.ways:
        with memory.Shortage() as short:
            trainings[way], peaks[way] = _started(step, way, device)
        if short.happened:
            memory.release()
    for way in list(trainings):  # once more, with the gradients and the momentum of all of them allocated
        with memory.Shortage() as short:
            trainings[way]()
        if short.happened:
            del trainings[way], peaks[way]
            memory.release()
    return trainings, peaks


def _started(step: Step, way: str, device: str) -> tuple[Training, int | None]:
    """A training after two steps, and the bytes that these added at their peak."""
    Training(step, way, device)()  # discarded: what libraries allocate on first use is not this way's memory
    training = Training(step, way, device)
    return training, memory.peak_added(lambda: (training(), training()), device)


def _largest_batch(step: Step, way: str, device: str) -> int:
    """The first batch that fits when the step's is halved repeatedly; 0 if not even one image does."""
    batch = step.batch // 2
    while batch:
        with memory.Shortage() as short:
            _started(replace(step, batch=batch), way, device)
        memory.release()
        if not short.happened:
            break
        batch //= 2
    return batch


def _parts(training: Training, device: str, rounds: int) -> dict[str, dict[str, float | int | None]]:
    """Seconds of each part of our step, and the bytes by which it exceeds those allocated before the step.

    "teacher" includes the masks, "loss" the gradients that it computes in its forward, "backward" those of
    the adapters.
    """
    spent = [
        [end - begin for begin, end in itertools.pairwise(stamps)]
        for stamps in _noted(training, timers.clock(device), device, rounds)
    ]
    peaks = [None] * len(PARTS)
    if device == "cuda":  # in a step of its own, because reading the counters takes host time
        ((_, held), *ends) = list(_noted(training, _highest_and_held, device, 1))[0]
        peaks = [highest - held for highest, _ in ends]
    return {
        part: {**timers.spread(seconds), "peak_bytes": peak}
        for part, seconds, peak in zip(PARTS, zip(*spent, strict=True), peaks, strict=True)
    }


def _noted(training: Training, note: Callable, device: str, rounds: int) -> Iterator[list]:
    """Runs our steps. Yields, for each, what ``note()`` returns at its start and at the ends of its parts."""
    learner, optimizer, notes = training.learner, training.optimizer, []
    ends = (
        learner.teacher.register_forward_hook, learner.student.register_forward_hook,
        learner.loss.adapter.register_forward_hook, learner.loss.register_forward_hook,
        optimizer.register_step_pre_hook, optimizer.register_step_post_hook,
    )  # fmt: skip
    hooks = [register(lambda *_: notes.append(note())) for register in ends]
    for _ in range(rounds):
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            timers.let_host_run_ahead()
        notes[:] = [note()]
        training()
        yield list(notes)
    for hook in hooks:
        hook.remove()


def _highest_and_held() -> tuple[int, int]:
    """The most bytes allocated since the last call, and the bytes allocated now."""
    highest, held = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return highest, held


def _learner(step: Step, way: str, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    student = step.detector(step.student).to(device)
    if way == "no teacher":
        return Learner(student)
    teacher = step.detector(step.teacher).to(device).eval()
    if way != "ours":
        return OfficialLearner(student, teacher, "none" if way == "official" else step.amp)
    config = DistillConfig(teacher_amp=step.amp, inherit_head=False)
    return DistilledLearner(
        student, prepare_teacher(teacher, student, config, device), config, True, pytest.fail
    )


def _data(step: Step, device: str):
    torch.manual_seed(1)
    images = [torch.rand(3, step.height, step.width, device=device) for _ in range(step.batch)]
    corners = torch.rand(step.batch, 8, 2, device=device) * 0.6
    boxes = torch.cat([corners, corners + 0.1 + 0.3 * torch.rand_like(corners)], dim=2)
    boxes = boxes * torch.tensor([step.width, step.height] * 2, device=device)
    labels = torch.randint(1, 81, (step.batch, 8), device=device)
    return images, [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
