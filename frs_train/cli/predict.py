"""The command `predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frs_train.cli.command import Command, Positional
from frs_train.config import Count, Fraction, Images, Processes
from frs_train.errors import UserError
from frs_train.options import Options

if TYPE_CHECKING:
    from frs_train.log import Log


@dataclass(frozen=True)
class PredictConfig(Options):
    """Options of `predict`."""

    checkpoint: Positional[str]
    """Run folder (the newest checkpoint is used), checkpoint file, torchvision:NAME, or ONNX file."""
    images: Positional[tuple[str, ...]]
    """Image files, folders (with all folders below), and patterns in quotes, such as "photos/*.jpg"."""
    out: Path
    """Folder for predictions.json, images.json and pictures. Files that exist are not overwritten."""
    annotations: Path | None = None
    """COCO file whose ids of images and categories are used, so that the results can be scored with it."""
    score: Fraction = 0.0
    """Minimum score in predictions.json; the detector drops those below its --score-threshold first."""
    pictures: bool = True
    """Draw the detections on each image, as OUT/pictures/NAME.png."""
    limit: Count = 0
    """Number of images to draw, the first ones; 0 draws all."""
    picture_score: Fraction = 0.3
    """Minimum score of the detections that are drawn."""
    batch_size: Images = 8
    """Images per forward pass."""
    workers: Processes = 2
    """Data loader processes; 0 loads images in the main process."""
    device: str = "auto"
    """`cpu`, `cuda` or `cuda:INDEX`; `auto` uses a GPU if there is one."""

    def check(self) -> None:
        if not self.images:
            raise UserError("IMAGES is missing: give image files, folders, or patterns in quotes.")


def predict(config: PredictConfig, log: Log) -> int:
    from frs_train.cli.detector import device_for, is_onnx, open_detector
    from frs_train.data.coco import match_classes, read_coco
    from frs_train.data.image_list import find_images, matched, numbered
    from frs_train.evaluation.predict import Predictions, predict

    device = device_for(config.device, is_onnx(config.checkpoint))
    files = find_images(config.images)
    coco = read_coco(config.annotations) if config.annotations else None
    images = matched(files, coco) if coco else numbered(files)
    detector, classes = open_detector(config.checkpoint, device, log)
    if coco:
        log.say(f"{coco.name}: {len(images)} of its {len(coco.images)} images are given.")
        categories = match_classes(coco, classes, config.checkpoint).categories
    else:
        categories = [{"id": label, "name": name} for label, name in enumerate(classes, start=1)]
    drawn = (config.limit or len(images)) if config.pictures else 0
    predictions = Predictions(
        config.out, images, categories, score=config.score, drawn=drawn, drawn_score=config.picture_score
    )
    predictions.refuse_to_overwrite()
    with log.progress(len(images), 0, "predicting") as tell:
        count, skipped = predict(
            detector,
            predictions,
            device,
            batch_size=config.batch_size,
            workers=config.workers,
            tell=tell,
            warn=log.warn,
        )
    log.say(f"Wrote {count} detections in {len(images) - skipped} images to {config.out}.")
    if skipped:
        log.warn(f"{skipped} of {len(images)} images were skipped (exit status 1).")
    return 1 if skipped else 0


PREDICT = Command(
    "Detect objects in image files: COCO results as JSON, and a picture of each image. The exit status is 1 "
    "if an image could not be read.",
    PredictConfig,
    predict,
)
