"""Resuming a run: the checkpoint to start from, and the check that options and classes fit it."""

from __future__ import annotations

import dataclasses
from typing import Any

from frs_train.config import RunConfig
from frs_train.errors import UserError
from frs_train.log import Log
from frs_train.training import checkpoint


def checkpoint_to_resume(config: RunConfig, classes: list[str], log: Log) -> dict[str, Any] | None:
    """The content of the checkpoint to resume from, or None to start from the beginning.

    Raises `UserError` if the folder holds a run and --resume is not given, or if the run does not fit.
    """
    if not config.resume:
        if checkpoint.checkpoints(config.out):
            raise UserError(
                f"{config.out} holds a run already. Add --resume to continue it, or choose another --out."
            )
        return None
    saved = checkpoint.newest(config.out, log.warn)
    if saved is None:
        log.say(f"{config.out} has no checkpoint yet: starting at the beginning.")
        return None
    refuse_other(saved, config, classes)
    return saved


def refuse_other(saved: dict[str, Any], config: RunConfig, classes: list[str]) -> None:
    """Raises `UserError` unless a run with these options and classes can resume from a checkpoint."""
    name = str(config.out)
    checkpoint.checked(checkpoint.RESUMABLE, saved, f"The newest checkpoint of {name}")
    before = fixed(checkpoint.config_of(saved, checkpoint.name_of(config.out, saved)))
    now = fixed(config)
    for option, value in now.items():
        if before[option] != value:
            raise UserError(
                f"{name} cannot resume with another --{option}: it was {before[option]} and is {value} now. "
                "Give the same value as before, or choose another --out."
            )
    if saved["classes"] != classes:
        raise UserError(
            f"{name} cannot resume with other classes: it was trained on {', '.join(saved['classes'])}, and "
            f"the annotations have {', '.join(classes)}. Give the same classes as before, or choose another "
            "--out."
        )


def fixed(config: RunConfig) -> dict[str, Any]:
    """The options that decide which tensors a run has, by name: a resumed run cannot change them."""
    detector = {f.name: getattr(config.detector, f.name) for f in dataclasses.fields(config.detector)}
    distill = config.distill if config.distill is not None and config.distill.method != "none" else None
    options = {
        "detector": detector.pop("family"),
        **detector,
        "optimizer": config.train.optimizer,
        "ema": "on" if config.train.ema else "off",
        "method": distill.method if distill else "none",
        "adapter": distill.adapter if distill else "none",
    }
    return {option.replace("_", "-"): value for option, value in options.items()}
