"""The commands `demo` and `make-digits`, which need no data of the user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from frs_train.cli.command import Command, Positional
from frs_train.config import Images, Period, Seed
from frs_train.options import Options, whole

if TYPE_CHECKING:
    from frs_train.log import Log


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
    scenes: Literal["dense", "sparse"] = "dense"
    """dense: several large digits per image; sparse: one to three small digits among many distractors."""


def demo(config: DemoConfig, log: Log) -> None:
    from frs_train.demo import demo

    demo(config.out, config.iterations, config.seed, log)


def make_digits(config: MakeDigitsConfig, log: Log) -> None:
    from frs_train.data.digits import SCENES, make_digits

    make_digits(config.out, config.train, config.val, config.size, config.seed, SCENES[config.scenes])
    log.say(f"Wrote {config.train} + {config.val} images and their annotations to {config.out}.")


DEMO = Command(
    "Train two small students on digits, without and with FRS, and compare their results. The teacher is "
    "included.",
    DemoConfig,
    demo,
)
MAKE_DIGITS = Command(
    "Create the digits data set: scans of handwritten digits, composed into scenes on photographs.",
    MakeDigitsConfig,
    make_digits,
)
