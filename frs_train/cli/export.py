"""The command `export`."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from frs_train.cli.command import Command, Positional
from frs_train.config import MULTIPLE, DataConfig
from frs_train.errors import UserError
from frs_train.options import Options, whole

if TYPE_CHECKING:
    from frs_train.config import RunConfig
    from frs_train.data.specimens import Specimens
    from frs_train.detectors import Detector
    from frs_train.log import Log


@dataclass(frozen=True)
class ExportConfig(Options):
    """Options of `export`."""

    checkpoint: Positional[str]
    """Run folder (the newest checkpoint is used), checkpoint file, or torchvision:NAME."""
    out: Path
    """File to write or replace; NAME.onnx for ONNX. OUT.json lists the class names in the order of labels."""
    format: Literal["torch", "onnx"] = "torch"
    """`torch`: a state dict for torchvision's model. `onnx`: pixels to detections, see docs/export.md."""
    batch: whole(0, 4096) = 0
    """ONNX: pictures per run; 0 leaves it open."""
    height: whole(0, 2**14) = 0
    """ONNX: height of the network's input, a multiple of 32; 0: just enough for all pictures of the check."""
    width: whole(0, 2**14) = 0
    """ONNX: width of the network's input; 0 as with `--height`."""
    images: Path | None = None
    """ONNX: folder of pictures to check the file on. None: validation images of the run, or random ones."""

    def check(self) -> None:
        onnx = self.format == "onnx"
        if onnx != (self.out.suffix == ".onnx"):
            raise UserError(
                f"--out is {self.out}, and --format is {self.format}. Files of the format onnx, and only "
                "these, have names that end in .onnx."
            )
        given = [name for name in ("batch", "height", "width", "images") if getattr(self, name)]
        if given and not onnx:
            raise UserError(f"--{given[0]} applies to --format onnx only.")
        if bool(self.height) != bool(self.width):
            raise UserError("--height and --width are given together, or neither is.")
        for name, side in (("height", self.height), ("width", self.width)):
            if side % MULTIPLE:
                below = side // MULTIPLE * MULTIPLE
                raise UserError(
                    f"--{name} is {side}, and it must be a multiple of {MULTIPLE}. Choose "
                    f"{f'{below} or ' if below else ''}{below + MULTIPLE}."
                )


def export(config: ExportConfig, log: Log) -> None:
    from frs_train.files import write_atomically

    write = onnx_content if config.format == "onnx" else torch_content
    content, detector, classes = write(config, log)
    write_atomically(config.out, content)
    names = json.dumps({"classes": ["__background__", *classes]}, indent=2)
    write_atomically(config.out.with_name(config.out.name + ".json"), names.encode())
    log.say(f"Wrote {config.out}: {detector.family}, {len(classes)} classes, labels from 1.")


def torch_content(config: ExportConfig, log: Log) -> tuple[bytes, Detector, list[str]]:
    """A file with a state dict of torchvision, and the detector and classes in it."""
    import torch

    from frs_train.detectors import torchvision_state_dict
    from frs_train.training.checkpoint import read_detector

    detector, classes = read_detector(config.checkpoint, log)
    try:
        state = torchvision_state_dict(detector)
    except ValueError as error:
        raise UserError(f"{config.checkpoint} cannot be exported: {error}.") from None
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue(), detector, classes


def onnx_content(config: ExportConfig, log: Log) -> tuple[bytes, Detector, list[str]]:
    """An ONNX file, checked, and the detector and classes in it."""
    from frs_train.detectors.onnx_export import check_exportable, onnx_model
    from frs_train.detectors.onnx_file import OnnxDetector, need
    from frs_train.evaluation.onnx_check import check_export
    from frs_train.training.checkpoint import read_run

    need("onnx", "onnxscript", "onnxruntime")
    detector, classes, run = read_run(config.checkpoint, log)
    check_exportable(detector)
    specimens = specimens_of(config, run, classes, log)
    canvas = canvas_of(config, detector, specimens, log)
    content = onnx_model(detector, classes, canvas, config.batch or None)
    with log.progress(len(specimens.pictures), 0, "checking") as tell:
        result = check_export(OnnxDetector(content), detector, specimens.pictures, tell)
    log.say(f"Checked on {result}.")
    if not result.detections:
        log.warn(
            f"Nothing was detected on these pictures with a score above {detector.config.score_threshold:g}, "
            "so the check proves little. Choose --images with objects."
        )
    return content, detector, classes


def specimens_of(config: ExportConfig, run: RunConfig | None, classes: list[str], log: Log) -> Specimens:
    """The pictures for the check: those of `--images`, the validation images of the run, or random ones."""
    from frs_train.data.specimens import from_dataset, from_folder, random_pictures
    from frs_train.training.datasets import open_eval

    if config.images:
        return from_folder(config.images)
    reason = "there are no validation images"
    data = run.data if run else DataConfig()
    if data.folder or (data.val_annotations and data.val_images):
        try:
            files = data.val_annotations, data.val_images
            return from_dataset(open_eval(*files, classes, config.checkpoint, log, folder=data.folder))
        except UserError as error:
            reason = str(error).rstrip(".")
    log.warn(f"The file is checked on random pictures ({reason}). --images FOLDER checks it on real ones.")
    return random_pictures()


def canvas_of(config: ExportConfig, detector: Detector, specimens: Specimens, log: Log) -> tuple[int, int]:
    """The size (height, width) of the network's input; the log says what becomes of the pictures."""
    from frs_train.detectors.canvas import fitted, resized, smallest

    limits = detector.config.min_size[-1], detector.config.max_size
    if config.height:
        canvas = config.height, config.width
    else:
        canvas = smallest(specimens.sizes or [(1, 1)], *limits)
    small = sum(fitted(*size, *limits, canvas) != resized(*size, *limits) for size in specimens.sizes)
    text = f"The network's input is {canvas[0]} x {canvas[1]} (height x width)"
    if small:
        text += (
            f"; {small} of {len(specimens.sizes)} pictures are scaled down further than in training to fit"
        )
    log.say(f"{text}.")
    return canvas


EXPORT = Command(
    "Write a detector for other programs: as a state dict that torchvision's model of the same architecture "
    "loads, or as an ONNX file from pixels to detections, which is run and compared with the detector first.",
    ExportConfig,
    export,
)
