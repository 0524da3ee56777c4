"""The subcommands: what each does, the type of its configuration, and the function that runs it.

Heavy imports wait until a command runs.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import tyro

from frs_train.config import Count, DistillConfig, Fraction, Images, Period, Processes, RunConfig, Seed
from frs_train.errors import UserError
from frs_train.log import Log
from frs_train.options import Options, whole
from frs_train.recipes import Recipe

Positional = tyro.conf.Positional


@dataclass(frozen=True)
class Command:
    """A subcommand."""

    description: str
    """What `--help` says it does."""
    configuration: type[Options]
    """Its options; no two commands have the same type."""
    run: Callable[[Any, Log], None]
    """Called with an instance of `configuration`."""
    default: Callable[[Recipe], Options] | None = None
    """The values that a recipe gives its options."""


@dataclass(frozen=True)
class PlainRunConfig(RunConfig):
    """A run as `train` shows it: without the options of a distillation."""

    distill: tyro.conf.Suppress[None] = None


@dataclass(frozen=True)
class DistilledRunConfig(RunConfig):
    """A run as `distill` shows it: with the options of a distillation."""

    distill: DistillConfig = field(default_factory=DistillConfig)


@dataclass(frozen=True)
class EvalConfig(Options):
    """Options of `eval`."""

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


@dataclass(frozen=True)
class VisualizeConfig(Options):
    """Options of `visualize`."""

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


@dataclass(frozen=True)
class ReportConfig(Options):
    """Options of `report`."""

    runs: Positional[tuple[Path, ...]]
    """Run folders."""
    out: Path = Path("report.html")
    """File to write."""
    images: Count = 2
    """Validation images whose masks are drawn; 0 draws none."""

    def check(self) -> None:
        if not self.runs:
            raise UserError("RUNS is missing: give the folder of one run or more.")


@dataclass(frozen=True)
class ExportConfig(Options):
    """Options of `export`."""

    checkpoint: Positional[str]
    """Run folder (its newest checkpoint), checkpoint file, or torchvision:NAME."""
    out: Path
    """File to write; FILE.json beside it names the classes in the order of their labels."""


@dataclass(frozen=True)
class DemoConfig(Options):
    """Options of `demo`."""

    out: Path = Path("runs/demo")
    """Folder of the data set, both runs and the results."""
    iterations: Period = 1000
    """Of each student."""
    seed: Seed = 0
    """Of the data set and of both students."""


@dataclass(frozen=True)
class MakeDigitsConfig(Options):
    """Options of `make-digits`."""

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


def train(config: RunConfig, log: Log) -> None:
    from frs_train.training.run import fit

    fit(RunConfig(**{option.name: getattr(config, option.name) for option in fields(config)}), log)


def evaluate(config: EvalConfig, log: Log) -> None:
    from frs_train import distributed
    from frs_train.evaluation.coco_metrics import describe, evaluate
    from frs_train.training.checkpoint import read_detector
    from frs_train.training.datasets import open_eval

    device = distributed.pick_device(config.device)
    with distributed.group(device):
        detector, classes = read_detector(config.checkpoint, log)
        data = open_eval(config.annotations, config.images, classes, config.checkpoint, log)
        with log.progress(len(data), 0, "evaluating") as tell:
            detector.to(device)
            scores = evaluate(
                detector, data, device, batch_size=config.batch_size, workers=config.workers, tell=tell
            )
        log.say(describe(scores))
        if distributed.rank() == 0:
            print(json.dumps(scores))


def visualize(config: VisualizeConfig, log: Log) -> None:
    from frs_train import distributed
    from frs_train.evaluation.pictures import write_pictures
    from frs_train.training.checkpoint import read_detector
    from frs_train.training.datasets import open_eval

    device = distributed.pick_device(config.device)
    detector, classes = read_detector(config.checkpoint, log)
    data = open_eval(config.annotations, config.images, classes, config.checkpoint, log)
    limit = config.limit or None
    paths = write_pictures(detector.to(device), data, config.out, device, limit=limit, score=config.score)
    log.say(f"Wrote {len(paths)} pictures to {config.out}.")


def report(config: ReportConfig, log: Log) -> None:
    from frs_train.report.page import write_report

    log.say(f"Wrote {write_report(config.runs, config.out, images=config.images)}.")


def export(config: ExportConfig, log: Log) -> None:
    import torch

    from frs_train.detectors import torchvision_state_dict
    from frs_train.files import write_atomically
    from frs_train.training.checkpoint import read_detector

    detector, classes = read_detector(config.checkpoint, log)
    try:
        state = torchvision_state_dict(detector)
    except ValueError as error:
        raise UserError(f"{config.checkpoint} cannot be exported: {error}.") from None
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(config.out, buffer.getvalue())
    names = json.dumps({"classes": ["__background__", *classes]}, indent=2)
    write_atomically(config.out.with_name(config.out.name + ".json"), names.encode())
    log.say(f"Wrote {config.out}: {detector.family}, {len(classes)} classes, labels from 1.")


def demo(config: DemoConfig, log: Log) -> None:
    from frs_train.demo import demo

    demo(config.out, config.iterations, config.seed, log)


def make_digits(config: MakeDigitsConfig, log: Log) -> None:
    from frs_train.data.digits import make_digits

    make_digits(config.out, config.train, config.val, config.size, config.seed)
    log.say(f"Wrote {config.train} + {config.val} images and their annotations to {config.out}.")


def teacher_of(recipe: Recipe) -> PlainRunConfig:
    return PlainRunConfig(tyro.MISSING, detector=recipe.teacher, train=recipe.train, recipe=recipe.name)


def student_of(recipe: Recipe) -> DistilledRunConfig:
    return DistilledRunConfig(
        tyro.MISSING, detector=recipe.student, train=recipe.train, distill=recipe.distill, recipe=recipe.name
    )


COMMANDS = {
    "train": Command(
        "Train a plain detector (a teacher, or a student that learns alone).",
        PlainRunConfig,
        train,
        teacher_of,
    ),
    "distill": Command(
        "Train a student with a teacher, by FRS or by one of the baselines (--method).",
        DistilledRunConfig,
        train,
        student_of,
    ),
    "eval": Command(
        "Evaluate a run or a checkpoint with pycocotools; the metrics are printed as JSON.",
        EvalConfig,
        evaluate,
    ),
    "visualize": Command(
        "Draw what a detector finds rich: its FRS masks level by level, beside boxes and detections, a PNG "
        "an image.",
        VisualizeConfig,
        visualize,
    ),
    "report": Command("Render runs side by side as one self-contained HTML page.", ReportConfig, report),
    "export": Command(
        "Write the student alone, as a state dict that torchvision's own model loads with strict=True.",
        ExportConfig,
        export,
    ),
    "demo": Command(
        "Distil a small detector here and now: digits, teacher, student without and with FRS, and what came "
        "of it.",
        DemoConfig,
        demo,
    ),
    "make-digits": Command(
        "Make the digits data set: real scans of handwritten digits in composed scenes on real photographs.",
        MakeDigitsConfig,
        make_digits,
    ),
}
