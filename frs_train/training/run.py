"""`fit(config)`, which runs a training from its configuration to its result."""

from __future__ import annotations

from typing import Any

import torch

from frs_train import distributed
from frs_train.config import RunConfig
from frs_train.errors import Stopped
from frs_train.files import locked
from frs_train.log import Log
from frs_train.streams import Stream, seed_of
from frs_train.training.balance import Balance
from frs_train.training.datasets import open_data
from frs_train.training.determinism import reproducible
from frs_train.training.learners import make_learner
from frs_train.training.metrics import Metrics
from frs_train.training.resume import checkpoint_to_resume
from frs_train.training.run_folder import RunFolder
from frs_train.training.schedule import shorten_warmups, total_iterations
from frs_train.training.signals import Signals
from frs_train.training.state import TrainingState
from frs_train.training.trainer import Trainer


def fit(config: RunConfig, log: Log | None = None) -> dict[str, Any]:
    """Trains or resumes a run, evaluates it, and returns the content of its `result.json`.

    Raises `UserError` for what the user can correct and `Stopped` after a signal; both leave a checkpoint.
    """
    device = distributed.pick_device(config.train.device)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    with (
        distributed.group(device),
        reproducible(config.train.deterministic),
        Signals().heard() as signals,
        locked(config.out),
    ):
        try:
            with signals.interruptible():
                trainer = make_trainer(config, device, log or Log(), signals)
        except KeyboardInterrupt:
            raise Stopped.by(signals.caught, "before the first step") from None
        return trainer.fit()


def make_trainer(config: RunConfig, device: torch.device, log: Log, signals: Signals) -> Trainer:
    """The trainer of a configuration, with its state restored from the newest checkpoint if the run is
    resumed."""
    train_set, val_set = open_data(config, log)
    classes = train_set.coco.classes
    total = total_iterations(config.train, len(train_set))
    saved = checkpoint_to_resume(config, classes, log)
    torch.manual_seed(seed_of(config.train.seed, Stream.WEIGHTS))
    shortened = shorten_warmups(config, total, log.say)
    learner = make_learner(shortened, classes, device, log, fresh=saved is None)
    state = TrainingState(config, learner, device, total)
    if saved is not None:
        state.restore(saved)
        log.say(f"Resuming at iteration {state.iteration} of {total}.")
    balance = Balance(shortened.distill)
    metrics = Metrics(config.out, log, total, config.train.tensorboard, balance)
    folder = RunFolder(config.out, config.train.keep)
    return Trainer(config, state, (train_set, val_set), folder, metrics, log, signals)
