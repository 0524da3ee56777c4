"""The subcommands: each a typed set of options, and what it runs. Heavy imports wait until they are
needed."""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from frs_train.config import Count, DistillConfig, Fraction, Images, Period, Processes, RunConfig, Seed
from frs_train.errors import UserError
from frs_train.evaluation.coco_metrics import describe
from frs_train.log import Log
from frs_train.options import Options, whole

Positional = tyro.conf.Positional


@dataclass(frozen=True)
class Train(RunConfig):
    """Train a plain detector (a teacher, or a student that learns alone)."""

    distill: tyro.conf.Suppress[None] = None

    def run(self, log: Log) -> None:
        from frs_train.training.run import fit

        fit(RunConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}), log)


@dataclass(frozen=True)
class Distill(Train):
    """Train a student with a teacher, by FRS or by one of the baselines (--method)."""

    distill: DistillConfig = field(default_factory=DistillConfig)


@dataclass(frozen=True)
class Eval(Options):
    """Evaluate a run or a checkpoint with pycocotools; the metrics are printed as JSON."""

    checkpoint: Positional[str]
    """Run folder (its newest checkpoint), checkpoint file, or torchvision:NAME."""
    annotations: Path
    """COCO-format annotation file."""
    images: Path
    """Folder that its file names are relative to."""
    batch_size: Images = 8
    """Images that are detected at once."""
    workers: Processes = 2
    """Loader processes; 0 loads in this one."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` and so on; `auto` takes a GPU if there is one."""

    def run(self, log: Log) -> None:
        from frs_train import distributed
        from frs_train.evaluation.coco_metrics import evaluate
        from frs_train.training.checkpoint import read_detector
        from frs_train.training.datasets import open_eval

        device = distributed.pick_device(self.device)
        with distributed.group(device):
            detector, classes = read_detector(self.checkpoint, log)
            data = open_eval(self.annotations, self.images, classes, self.checkpoint, log)
            with log.progress(len(data), 0, "evaluating") as tell:
                detector.to(device)
                found = evaluate(
                    detector, data, device, batch_size=self.batch_size, workers=self.workers, tell=tell
                )
            log.say(describe(found))
            if distributed.rank() == 0:
                print(json.dumps(found))


@dataclass(frozen=True)
class Visualize(Options):
    """Draw what a detector finds rich: its FRS masks level by level, beside boxes and detections, a PNG an
    image."""

    checkpoint: Positional[str]
    """Run folder (its newest checkpoint), checkpoint file, or torchvision:NAME."""
    annotations: Path
    """COCO-format annotation file."""
    images: Path
    """Folder that its file names are relative to."""
    out: Path
    """Folder of the PNGs."""
    limit: Count = 16
    """Images to draw, from the first on; 0 draws all."""
    score: Fraction = 0.3
    """Least score of a detection that is drawn."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` and so on; `auto` takes a GPU if there is one."""

    def run(self, log: Log) -> None:
        from frs_train import distributed
        from frs_train.evaluation.pictures import write_pictures
        from frs_train.training.checkpoint import read_detector
        from frs_train.training.datasets import open_eval

        device = distributed.pick_device(self.device)
        detector, classes = read_detector(self.checkpoint, log)
        data = open_eval(self.annotations, self.images, classes, self.checkpoint, log)
        limit = self.limit or None
        paths = write_pictures(detector.to(device), data, self.out, device, limit=limit, score=self.score)
        log.say(f"Wrote {len(paths)} pictures to {self.out}.")


@dataclass(frozen=True)
class Report(Options):
    """Render runs side by side as one self-contained HTML page."""

    runs: Positional[tuple[Path, ...]]
    """Run folders."""
    out: Path = Path("report.html")
    """File to write."""
    images: Count = 2
    """Validation images whose masks are drawn; 0 draws none."""

    def check(self) -> None:
        if not self.runs:
            raise UserError("RUNS is missing: give the folder of one run or more.")

    def run(self, log: Log) -> None:
        from frs_train.report.page import write_report

        log.say(f"Wrote {write_report(self.runs, self.out, images=self.images)}.")


@dataclass(frozen=True)
class Export(Options):
    """Write the student alone, as a state dict that torchvision's own model loads with strict=True."""

    checkpoint: Positional[str]
    """Run folder (its newest checkpoint), checkpoint file, or torchvision:NAME."""
    out: Path
    """File to write; FILE.json beside it names the classes in the order of their labels."""

    def run(self, log: Log) -> None:
        import torch

        from frs_train.detectors import torchvision_state_dict
        from frs_train.files import write_atomically
        from frs_train.training.checkpoint import read_detector

        detector, classes = read_detector(self.checkpoint, log)
        try:
            state = torchvision_state_dict(detector)
        except ValueError as error:
            raise UserError(f"{self.checkpoint} cannot be exported: {error}.") from None
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.out, buffer.getvalue())
        names = json.dumps({"classes": ["__background__", *classes]}, indent=2)
        write_atomically(self.out.with_name(self.out.name + ".json"), names.encode())
        log.say(f"Wrote {self.out}: {detector.family}, {len(classes)} classes, labels from 1.")


@dataclass(frozen=True)
class Demo(Options):
    """Distil a small detector here and now: digits, teacher, student without and with FRS, and what came of
    it."""

    out: Path = Path("runs/demo")
    """Folder of the data set, both runs and the results."""
    iterations: Period = 1000
    """Of each student."""
    seed: Seed = 0
    """Of the data set and of both students."""

    def run(self, log: Log) -> None:
        from frs_train.demo import demo

        demo(self.out, self.iterations, self.seed, log)


@dataclass(frozen=True)
class MakeDigits(Options):
    """Make the digits data set: real scans of handwritten digits in composed scenes on real photographs."""

    out: Positional[Path]
    """Folder of the data set."""
    train: Images = 400
    """Training images."""
    val: Images = 100
    """Validation images."""
    size: whole(32, 4096) = 128
    """Side of an image in pixels."""
    seed: Seed = 0
    """Of every random draw."""

    def run(self, log: Log) -> None:
        from frs_train.data.digits import make_digits

        make_digits(self.out, self.train, self.val, self.size, self.seed)
        log.say(f"Wrote {self.train} + {self.val} images and their annotations to {self.out}.")


COMMANDS = {
    "train": Train,
    "distill": Distill,
    "eval": Eval,
    "visualize": Visualize,
    "report": Report,
    "export": Export,
    "demo": Demo,
    "make-digits": MakeDigits,
}
