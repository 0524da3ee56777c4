"""What a step changes and a checkpoint holds: weights, moving average, optimiser, gradient scaler, and the
iteration."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from frs_train import distributed
from frs_train.config import RunConfig
from frs_train.data.loader import to_device
from frs_train.detectors import Detector
from frs_train.options import to_dict
from frs_train.streams import mix
from frs_train.training import resume
from frs_train.training.checkpoint import load_weights
from frs_train.training.learner import Learner, autocast
from frs_train.training.optimizer import learning_rate, make_optimizer

Part = Any  # of a batch, as the loader gives it: samples, or a `UserError`


class TrainingState:
    """A learner on its way through a run of `total` iterations."""

    def __init__(self, config: RunConfig, learner: Learner, device: torch.device, total: int):
        self.config, self.learner, self.device, self.total = config, learner, device, total
        self.student: Detector = learner.student
        self.optimizer = make_optimizer(learner, config.train)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.amp == "fp16")
        average = get_ema_multi_avg_fn(config.train.ema)
        self.ema = (
            AveragedModel(self.student, multi_avg_fn=average, use_buffers=True) if config.train.ema else None
        )
        self.iteration = 0

    @property
    def detector(self) -> Detector:
        """What is evaluated: the moving average if there is one."""
        return self.ema.module if self.ema else self.student

    def step(self, module: nn.Module, parts: list[Part]) -> dict[str, Tensor]:
        """One optimiser step on these parts of a batch, by the learner or what wraps it.

        Returns the mean losses by name, not yet read from the device. Every random draw follows from seed,
        iteration and process, so nothing about the generators is ever saved.
        """
        t = self.config.train
        torch.manual_seed(mix(t.seed, 3, self.iteration, distributed.rank()))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(t, self.iteration, self.total)
        module.train()
        self.optimizer.zero_grad(set_to_none=True)
        mean: dict[str, Tensor] = {}
        for number, part in enumerate(parts, start=1):
            wait = isinstance(module, DistributedDataParallel) and number < len(parts)
            with module.no_sync() if wait else contextlib.nullcontext():
                losses = self._losses(module, part)
                self.scaler.scale(sum(losses.values()) / len(parts)).backward()
            for name, loss in losses.items():
                mean[name] = mean.get(name, 0) + loss.detach() / len(parts)
        if t.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], t.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update_parameters(self.student)
        self.iteration += 1
        return mean

    @torch.no_grad()
    def losses(self, part: Part) -> dict[str, Tensor]:
        """What the weights, as they are now, would lose on a part of a batch.

        Leaves nothing changed: the next step seeds the generators anew, and the buffers (running means, the
        warm-up) are put back.
        """
        buffers = [(buffer, buffer.clone()) for buffer in self.learner.buffers()]
        losses = self._losses(self.learner.train(), part)
        for buffer, before in buffers:
            buffer.copy_(before)
        return losses

    def _losses(self, module: nn.Module, part: Part) -> dict[str, Tensor]:
        sizes = self.config.detector.min_size
        size = sizes[mix(self.config.train.seed, 4, self.iteration) % len(sizes)]
        images, targets = to_device(part, self.device)
        with autocast(self.device, self.config.train.amp):
            return module(images, targets, size)

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
        """The inverse of `content`. Raises `UserError` if it does not fit."""
        name = f"the newest checkpoint in {self.config.out}"
        student = {f"student.{k}": v for k, v in saved["model"].items()}
        load_weights(self.learner, {**student, **saved["loss"]}, name)
        if self.ema:
            load_weights(self.ema.module, saved.get("ema") or {}, f"the moving average of {name}")
            self.ema.n_averaged.fill_(saved["ema_steps"])
        resume.load_optimizer(self.optimizer, saved["optimizer"], name)
        resume.load_scaler(self.scaler, saved["scaler"], name)
        self.iteration = saved["iteration"]
