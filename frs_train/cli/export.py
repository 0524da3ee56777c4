"""The command `export`."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frs_train.cli.command import Command, Positional
from frs_train.errors import UserError
from frs_train.options import Options

if TYPE_CHECKING:
    from frs_train.log import Log


@dataclass(frozen=True)
class ExportConfig(Options):
    """Options of `export`."""

    checkpoint: Positional[str]
    """Run folder (the newest checkpoint is used), checkpoint file, or torchvision:NAME."""
    out: Path
    """File to write. OUT.json lists the class names in the order of their labels."""


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


EXPORT = Command(
    "Write a detector as a state dict that torchvision's model of the same architecture loads.",
    ExportConfig,
    export,
)
