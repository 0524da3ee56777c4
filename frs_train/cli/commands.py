"""The subcommands: description, options and function of each.

The functions import torch and the rest of the package themselves, so that `--help` is fast.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from frs_train.config import Count, DistillConfig, Fraction, Images, Period, Processes, RunConfig, Seed
from frs_train.errors import UserError
from frs_train.options import Options, whole
from frs_train.recipes import Recipe

if TYPE_CHECKING:
    from frs_train.log import Log

Positional = tyro.conf.Positional


@dataclass(frozen=True)
class Command:
    """A subcommand."""

    description: str
    """The text in `--help`."""
    configuration: type[Options]
    """The type of its options; each command has its own, by which the parser identifies the command."""
    run: Callable[[Any, Log], None]
    """Runs the command, given an instance of `configuration`."""
    default: Callable[[Recipe], Options] | None = None
    """The default options under a recipe."""


@dataclass(frozen=True)
class PlainRunConfig(RunConfig):
    """Options of `train`: those of a run without distillation."""

    distill: tyro.conf.Suppress[None] = None


@dataclass(frozen=True)
class DistilledRunConfig(RunConfig):
    """Options of `distill`: those of a run with distillation."""

    distill: DistillConfig = field(default_factory=DistillConfig)


@dataclass(frozen=True)
class EvalConfig(Options):
    """Options of `eval`."""

    checkpoint: Positional[str]
    """Run folder (the newest checkpoint is used), checkpoint file, or torchvision:NAME."""
    annotations: Path
    """Annotation file (COCO JSON)."""
    images: Path
    """Folder of the images; each `file_name` is relative to it."""
    batch_size: Images = 8
    """Images per forward pass."""
    workers: Processes = 2
    """Data loader processes; 0 loads images in the main process."""
    device: str = "auto"
    """`cpu`, `cuda` or `cuda:INDEX`; `auto` uses a GPU if there is one."""


@dataclass(frozen=True)
class VisualizeConfig(Options):
    """Options of `visualize`."""

    checkpoint: Positional[str]
    """Run folder (the newest checkpoint is used), checkpoint file, or torchvision:NAME."""
    annotations: Path
    """Annotation file (COCO JSON)."""
    images: Path
    """Folder of the images; each `file_name` is relative to it."""
    out: Path
    """Folder to write the PNG files to."""
    limit: Count = 16
    """Number of images to draw, from the start of the file; 0 draws all."""
    score: Fraction = 0.3
    """Minimum score of the detections that are drawn."""
    device: str = "auto"
    """`cpu`, `cuda` or `cuda:INDEX`; `auto` uses a GPU if there is one."""


@dataclass(frozen=True)
class ReportConfig(Options):
    """Options of `report`."""

    runs: Positional[tuple[Path, ...]]
    """Run folders to compare."""
    out: Path = Path("report.html")
    """HTML file to write."""
    images: Count = 2
    """Number of validation images whose masks are drawn."""

    def check(self) -> None:
        if not self.runs:
            raise UserError("RUNS is missing: give the folder of one run or more.")


@dataclass(frozen=True)
class ExportConfig(Options):
    """Options of `export`."""

    checkpoint: Positional[str]
    """Run folder (the newest checkpoint is used), checkpoint file, or torchvision:NAME."""
    out: Path
    """File to write. OUT.json lists the class names in the order of their labels."""


@dataclass(frozen=True)
class DemoConfig(Options):
    """Options of `demo`."""

    out: Path = Path("runs/demo")
    """Folder for the data set, both runs and the results."""
    iterations: Period = 1000
    """Training iterations of each student."""
    seed: Seed = 0
    """Seed of the data set and of both students."""


@dataclass(frozen=True)
class MakeDigitsConfig(Options):
    """Options of `make-digits`."""

    out: Positional[Path]
    """Folder to write the data set to."""
    train: Images = 400
    """Number of training images."""
    val: Images = 100
    """Number of validation images."""
    size: whole(32, 4096) = 128
    """Side of the square images in pixels."""
    seed: Seed = 0
    """Seed of the random generator."""


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
        "Train a detector without distillation (a teacher, or a student as baseline).",
        PlainRunConfig,
        train,
        teacher_of,
    ),
    "distill": Command(
        "Train a student with a teacher, by FRS or by a baseline (--method).",
        DistilledRunConfig,
        train,
        student_of,
    ),
    "eval": Command(
        "Evaluate a run or a checkpoint with pycocotools and print the metrics as JSON.",
        EvalConfig,
        evaluate,
    ),
    "visualize": Command(
        "Draw the FRS masks of a detector, one PNG file per image: ground truth, detections, and the mask of "
        "each FPN level.",
        VisualizeConfig,
        visualize,
    ),
    "report": Command("Compare runs in one self-contained HTML page.", ReportConfig, report),
    "export": Command(
        "Write a detector as a state dict that torchvision's model of the same architecture loads.",
        ExportConfig,
        export,
    ),
    "demo": Command(
        "Train two small students on digits, without and with FRS, and compare their results. The teacher is "
        "included.",
        DemoConfig,
        demo,
    ),
    "make-digits": Command(
        "Create the digits data set: scans of handwritten digits, composed into scenes on photographs.",
        MakeDigitsConfig,
        make_digits,
    ),
}
