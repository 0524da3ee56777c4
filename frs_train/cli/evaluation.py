"""The commands `eval` and `visualize`, which look at a trained detector."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frs_train.cli.command import Command, Positional
from frs_train.config import Count, Fraction, Images, Processes
from frs_train.options import Options

if TYPE_CHECKING:
    from frs_train.log import Log


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


EVAL = Command(
    "Evaluate a run or a checkpoint with the COCO metrics and print them as JSON.",
    EvalConfig,
    evaluate,
)
VISUALIZE = Command(
    "Draw the FRS masks of a detector, one PNG file per image: ground truth, detections, and the mask of "
    "each FPN level.",
    VisualizeConfig,
    visualize,
)
