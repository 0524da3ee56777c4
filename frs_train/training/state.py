"""The state of a run: everything that a step changes and a checkpoint stores."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from frs_train.config import RunConfig
from frs_train.detectors import Detector
from frs_train.options import to_dict
from frs_train.training.checkpoint import load_weights
from frs_train.training.learner import Learner
from frs_train.training.optimizer import load_optimizer, load_scaler, make_optimizer


class TrainingState:
    """Learner, moving average, optimizer, gradient scaler, and the iteration they have reached of `total`."""

    def __init__(self, config: RunConfig, learner: Learner, device: torch.device, total: int):
        self.config, self.learner, self.device, self.total = config, learner, device, total
        self.student: Detector = learner.student
        self.optimizer = make_optimizer(learner, config.train)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.amp == "fp16")  # pyright: ignore[reportPrivateImportUsage]  # documented there
        average = get_ema_multi_avg_fn(config.train.ema)
        self.ema = (
            AveragedModel(self.student, multi_avg_fn=average, use_buffers=True) if config.train.ema else None
        )
        self.reach(0)

    def reach(self, iteration: int) -> None:
        """Sets the number of optimizer steps taken, which the learner's warm-up counts too."""
        self.iteration = iteration
        self.learner.set_step(iteration)

    @property
    def detector(self) -> Detector:
        """The detector that is evaluated: the moving average if there is one."""
        return self.ema.module if self.ema else self.student  # pyright: ignore[reportReturnType]  # a copy of it

    def content(self, classes: list[str]) -> dict[str, Any]:
        """The content of a checkpoint: see `checkpoint.Resumable`."""
        return {
            "config": to_dict(self.config),
            "classes": classes,
            "model": self.student.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "ema_steps": int(self.ema.n_averaged) if self.ema else 0,
            "loss": {k: v for k, v in self.learner.state_dict().items() if k.startswith("loss.")},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """The inverse of `content`. Raises `UserError` if the content does not fit."""
        name = f"the newest checkpoint in {self.config.out}"
        student = {f"student.{k}": v for k, v in saved["model"].items()}
        load_weights(self.learner, {**student, **saved["loss"]}, name)
        if self.ema:
            load_weights(self.ema.module, saved.get("ema") or {}, f"the moving average of {name}")
            self.ema.n_averaged.fill_(saved["ema_steps"])
        load_optimizer(self.optimizer, saved["optimizer"], name)
        load_scaler(self.scaler, saved["scaler"], name)
        self.reach(saved["iteration"])
