"""The commands `eval` and `visualize`, which look at a trained detector."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frs_train.cli.command import Command, Positional
from frs_train.config import Count, Fraction, Images, Processes, Split
from frs_train.errors import UserError
from frs_train.options import Options

if TYPE_CHECKING:
    from frs_train.data.dataset import CocoDetection
    from frs_train.log import Log


@dataclass(frozen=True, kw_only=True)
class EvalData(Options):
    """The data set of an evaluation."""

    data: Path | None = None
    """Folder of a data set in a layout of COCO, Roboflow or YOLO; see "Data" in docs/recipes.md."""
    split: Split = "val"
    """Part of `--data` to use."""
    annotations: Path | None = None
    """Annotation file (COCO JSON), instead of that of `--data`."""
    images: Path | None = None
    """Folder of the images, instead of that of `--data`; each `file_name` is relative to it."""

    def check(self) -> None:
        if self.data is None and (self.annotations is None or self.images is None):
            raise UserError(
                "--data is missing: the folder of a data set. Or give both --annotations and --images."
            )


@dataclass(frozen=True)
class EvalConfig(EvalData):
    """Options of `eval`."""

    checkpoint: Positional[str]
    """Run folder (the newest checkpoint is used), checkpoint file, torchvision:NAME, or a file NAME.onnx."""
    batch_size: Images = 8
    """Images per forward pass."""
    workers: Processes = 2
    """Data loader processes; 0 loads images in the main process."""
    device: str = "auto"
    """`cpu`, `cuda` or `cuda:INDEX`; `auto` uses a GPU if there is one."""


@dataclass(frozen=True)
class VisualizeConfig(EvalData):
    """Options of `visualize`."""

    checkpoint: Positional[str]
    """Run folder (the newest checkpoint is used), checkpoint file, or torchvision:NAME."""
    out: Path
    """Folder to write the PNG files to."""
    limit: Count = 16
    """Number of images to draw, from the start of the file; 0 draws all."""
    score: Fraction = 0.3
    """Minimum score of the detections that are drawn."""
    device: str = "auto"
    """`cpu`, `cuda` or `cuda:INDEX`; `auto` uses a GPU if there is one."""


def _open(config: EvalData, classes: list[str], name: str, log: Log) -> CocoDetection:
    from frs_train.training.datasets import open_eval

    paths = (config.annotations, config.images)
    return open_eval(*paths, classes, name, log, folder=config.data, split=config.split)


def evaluate(config: EvalConfig, log: Log) -> None:
    from frs_train import distributed
    from frs_train.cli.detector import device_for, is_onnx, open_detector
    from frs_train.evaluation.coco_metrics import describe, evaluate

    device = device_for(config.device, is_onnx(config.checkpoint))
    with distributed.group(device):
        detector, classes = open_detector(config.checkpoint, device, log)
        data = _open(config, classes, config.checkpoint, log)
        with log.progress(len(data), 0, "evaluating") as tell:
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

    device = distributed.pick_device(config.device)
    detector, classes = read_detector(config.checkpoint, log)
    data = _open(config, classes, config.checkpoint, log)
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
