"""The command line: `frs-train COMMAND`. What the user can put right is one paragraph and exit code 2."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from frs_train.config import DataConfig, DetectorConfig, DistillConfig, RunConfig, TrainConfig
from frs_train.errors import Stopped, UserError
from frs_train.metrics import Log, describe

Positional = tyro.conf.Positional


@dataclass(frozen=True)
class Train:
    """Train a plain detector (a teacher, or a student that learns alone)."""

    out: Path
    """Folder of the run."""
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    recipe: str | None = None
    """Preset that the other options change; see docs/recipes.md."""
    resume: bool = False
    """Go on from the newest readable checkpoint in the run folder."""

    def run(self, log: Log) -> None:
        from frs_train.engine import fit

        fit(RunConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}), log)


@dataclass(frozen=True)
class Distill(Train):
    """Train a student with a teacher, by FRS or by one of the baselines (--method)."""

    distill: DistillConfig = field(default_factory=DistillConfig)


@dataclass(frozen=True)
class Eval:
    """Evaluate a run or a checkpoint with pycocotools."""

    checkpoint: Positional[Path]
    """Run folder (its newest checkpoint) or checkpoint file."""
    annotations: Path
    images: Path
    batch_size: int = 8
    workers: int = 2
    device: str = "auto"

    def run(self, log: Log) -> None:
        import json

        from frs_train import assemble, checkpoint, distributed
        from frs_train.evaluate import evaluate

        device = distributed.pick_device(self.device)
        with distributed.group(device):
            detector, classes = checkpoint.restore(checkpoint.read(self.checkpoint, log.warn))
            data = assemble.open_eval(self.annotations, self.images, classes, str(self.checkpoint), log)
            with log.progress(len(data), 0, "evaluating") as bar:
                found = evaluate(
                    detector.to(device), data, device,
                    batch_size=self.batch_size, workers=self.workers,
                    step=lambda n: bar.advance(bar.task_ids[0], n * distributed.world()),
                )  # fmt: skip
            log.say(describe(found))
            if distributed.rank() == 0:
                print(json.dumps(found))


@dataclass(frozen=True)
class MakeDigits:
    """Make the digits data set: real scans of handwritten digits in composed scenes on real photographs."""

    out: Positional[Path]
    train: int = 400
    """Training images."""
    val: int = 100
    """Validation images."""
    size: int = 128
    """Side of an image in pixels."""
    seed: int = 0

    def run(self, log: Log) -> None:
        from frs_train.digits import make_digits

        make_digits(self.out, self.train, self.val, self.size, self.seed)
        log.say(f"Wrote {self.train} + {self.val} images and their annotations to {self.out}.")


COMMANDS = {"train": Train, "distill": Distill, "eval": Eval, "make-digits": MakeDigits}


def parse(arguments: Sequence[str]) -> Train | Eval | MakeDigits:
    """The command of a command line."""
    union = None
    for name, kind in COMMANDS.items():
        option = Annotated[kind, tyro.conf.subcommand(name)]
        union = option if union is None else union | option
    return tyro.cli(
        tyro.conf.OmitArgPrefixes[union], prog="frs-train", args=list(arguments), description=__doc__
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; returns the exit status."""
    log = Log()
    try:
        parse(sys.argv[1:] if arguments is None else arguments).run(log)
    except UserError as error:
        print(f"frs-train: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        log.say(f"{stopped} Go on with --resume.")
        return stopped.code
    return 0
