"""Configurations of runs with few iterations and images, which take seconds."""

from dataclasses import replace
from pathlib import Path

from tiny_detectors import TINY

from frs_train.config import DataConfig, DetectorConfig, DistillConfig, RunConfig, TrainConfig
from frs_train.log import Log
from frs_train.training.run import fit

SIZE = 64


def data_of(folder: Path) -> DataConfig:
    return DataConfig(
        folder / "train.json",
        folder / "images",
        folder / "val.json",
        folder / "images",
        workers=0,
        flip=0.5,
        jitter=0.2,
    )


def run_config(folder: Path, out: Path, *, distill: DistillConfig | None = None, detector=None, **train):
    """A run of a few iterations on one thread; `train` changes `TrainConfig`, `detector` `DetectorConfig`."""
    detector = {"family": "fcos", **TINY, "min_size": (SIZE,), **(detector or {})}
    options = dict(
        iterations=4,
        batch_size=4,
        optimizer="adamw",
        lr=2e-3,
        lr_warmup=2,
        checkpoint_every=0,
        log_every=1,
        device="cpu",
        threads=1,
    )
    return RunConfig(
        out, DetectorConfig(**detector), data_of(folder), TrainConfig(**{**options, **train}), distill
    )


def quiet_fit(config: RunConfig, **changes):
    return fit(replace(config, **changes), Log(quiet=True))
