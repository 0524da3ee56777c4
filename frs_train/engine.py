"""The training loop: `fit(config)` makes or resumes a run, and leaves its folder with everything to judge
it by.

A run folder holds config.json, metrics.jsonl, checkpoint-*.pt (the newest `keep`) and, when it is done,
result.json.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from frs_train import checkpoint, distributed
from frs_train.assemble import make_learner, open_data
from frs_train.config import RunConfig, to_dict
from frs_train.data import TrainingOrder, loaded, mix, to_device
from frs_train.detectors import Detector
from frs_train.distiller import autocast
from frs_train.errors import Stopped, UserError
from frs_train.evaluate import evaluate
from frs_train.metrics import Log, Metrics, peak_memory_mb
from frs_train.optim import learning_rate, make_optimizer, shorten_warmups
from frs_train.runtime import Timer, catch_signals, reproducible


def fit(config: RunConfig, log: Log | None = None) -> dict[str, Any]:
    """Trains, evaluates and returns the content of `result.json`.

    Raises `UserError` for what the user can put right and `Stopped` after a signal; both leave a checkpoint.
    """
    device = distributed.pick_device(config.train.device)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    with distributed.group(device), reproducible(config.train.deterministic), catch_signals() as stop:
        return Run(config, device, log or Log()).fit(stop)


class Run:
    """A configuration brought to life: data, learner, optimiser, and the iteration they have reached."""

    def __init__(self, config: RunConfig, device: torch.device, log: Log):
        self.config, self.device, self.log = config, device, log
        self.train_set, self.val_set = open_data(config, log)
        self.classes = self.train_set.coco.classes
        t = config.train
        self.total = t.iterations or max(1, round(t.epochs * len(self.train_set) / t.batch_size))
        saved = self._saved()
        torch.manual_seed(mix(t.seed, 0))
        ending = shorten_warmups(config, self.total, log.say)
        self.learner = make_learner(ending, self.classes, device, log, fresh=saved is None)
        self.detector: Detector = self.learner.student
        self.optimizer = make_optimizer(self.learner, t)
        self.scaler = torch.amp.GradScaler(device.type, enabled=t.amp == "fp16")
        self.ema = (
            AveragedModel(self.detector, multi_avg_fn=get_ema_multi_avg_fn(t.ema), use_buffers=True)
            if t.ema
            else None
        )
        self.iteration = 0
        self.metrics = Metrics(config.out, log, self.total, t.tensorboard)
        if saved is not None:
            self._restore(saved)

    def fit(self, stop: list[int]) -> dict[str, Any]:
        """The loop. `stop` receives the number of a signal that asks to stop."""
        finished = self._finished()
        if finished:
            return finished
        if distributed.rank() == 0:
            checkpoint.write_atomically(
                self.config.out / "config.json", json.dumps(to_dict(self.config), indent=2).encode()
            )
        self.metrics.forget_after(self.iteration)
        timer = Timer(self.iteration)
        with self.log.progress(self.total, self.iteration, "training") as tell, self._loaded() as batches:
            self._loop(stop, timer, tell, batches)
        return self._finish(timer)

    def _loop(self, stop: list[int], timer: Timer, tell: Callable[..., None], batches: Iterator) -> None:
        t = self.config.train
        module = self._wrapped()
        while self.iteration < self.total:
            try:
                losses = self.step(module, batches)
            except UserError:
                self.save()
                raise
            self.iteration += 1
            last = self.iteration == self.total
            save = last or (t.checkpoint_every and self.iteration % t.checkpoint_every == 0)
            if save or self.iteration % t.log_every == 0:  # so that what is saved has been found finite
                tell(**self._report(losses, timer))
            tell(completed=self.iteration)
            signal = distributed.any_of(stop[-1] if stop else 0)
            if save or signal:
                self.save()
            if signal:
                text = f"Stopped by signal {signal} at iteration {self.iteration}; saved."
                raise Stopped(text, 128 + signal)
            if t.eval_every and self.iteration % t.eval_every == 0 and not last:
                with timer.paused():
                    self.evaluate()

    def _loaded(self) -> contextlib.AbstractContextManager[Iterator]:
        t = self.config.train
        order = TrainingOrder(
            len(self.train_set), t.batch_size, t.seed, self.iteration, self.total,
            distributed.rank(), distributed.world(), t.accumulate,
        )  # fmt: skip
        return loaded(self.train_set, order, self.config.data.workers, self.device)

    def step(self, module: nn.Module, batches: Iterator) -> dict[str, Tensor]:
        """One optimiser step on the next batches; returns the mean losses by name (not yet read from the
        device).

        Every random draw follows from seed, iteration and process, so nothing about the generators is ever
        saved.
        """
        t = self.config.train
        torch.manual_seed(mix(t.seed, 3, self.iteration, distributed.rank()))
        sizes = self.config.detector.min_size
        size = sizes[mix(t.seed, 4, self.iteration) % len(sizes)]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(t, self.iteration, self.total)
        module.train()
        self.optimizer.zero_grad(set_to_none=True)
        mean: dict[str, Tensor] = {}
        for part in range(t.accumulate):
            images, targets = to_device(next(batches), self.device)
            wait = isinstance(module, DistributedDataParallel) and part + 1 < t.accumulate
            with module.no_sync() if wait else contextlib.nullcontext():
                with autocast(self.device, t.amp):
                    losses = module(images, targets, size)
                self.scaler.scale(sum(losses.values()) / t.accumulate).backward()
            for name, loss in losses.items():
                mean[name] = mean.get(name, 0) + loss.detach() / t.accumulate
        if t.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], t.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update_parameters(self.detector)
        return mean

    def evaluate(self) -> dict[str, Any]:
        """Evaluates the weights (their moving average if there is one) and writes the line."""
        with self.log.progress(len(self.val_set), 0, "evaluating") as tell:
            detector = self.ema.module if self.ema else self.detector

            workers = self.config.data.workers
            found = evaluate(detector, self.val_set, self.device, workers=workers, tell=tell)
        self.metrics.eval(self.iteration, found)
        self.metrics.masks(self.iteration, detector, self.val_set, self.device)
        return found

    def save(self) -> None:
        """A checkpoint of this iteration, by process 0."""
        if distributed.rank():
            return
        content = {
            "config": to_dict(self.config),
            "classes": self.classes,
            "model": self.detector.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema else None,
            "ema_steps": int(self.ema.n_averaged) if self.ema else 0,
            "loss": {k: v for k, v in self.learner.state_dict().items() if k.startswith("loss.")},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        checkpoint.save(self.config.out, self.iteration, content, self.config.train.keep)

    def _saved(self) -> dict[str, Any] | None:
        """The checkpoint to resume from, or None to start."""
        found = checkpoint.checkpoints(self.config.out)
        if not self.config.resume:
            if found:
                raise UserError(
                    f"{self.config.out} holds a run already. Add --resume to go on, or choose another --out."
                )
            return None
        saved = checkpoint.newest(self.config.out, self.log.warn)
        if saved is None:
            self.log.say(f"{self.config.out} has no checkpoint yet: starting at the beginning.")
            return None
        if saved["config"]["detector"] != to_dict(self.config.detector) or saved["classes"] != self.classes:
            raise UserError(
                f"{self.config.out} was trained with another detector or other classes; resume with the same."
            )
        return saved

    def _restore(self, saved: dict[str, Any]) -> None:
        checkpoint.load_weights(self.learner, self._prefixed(saved), str(self.config.out))
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.ema:
            self.ema.module.load_state_dict(saved["ema"])
            self.ema.n_averaged.fill_(saved["ema_steps"])
        self.iteration = saved["iteration"]
        self.log.say(f"Going on at iteration {self.iteration} of {self.total}.")

    @staticmethod
    def _prefixed(saved: dict[str, Any]) -> dict[str, Tensor]:
        return {**{f"student.{k}": v for k, v in saved["model"].items()}, **saved["loss"]}

    def _wrapped(self) -> nn.Module:
        if distributed.world() == 1:
            return self.learner
        return DistributedDataParallel(
            self.learner, device_ids=[self.device.index] if self.device.type == "cuda" else None
        )

    def _report(self, losses: dict[str, Tensor], timer: Timer) -> dict[str, str]:
        values = distributed.add(torch.stack(list(losses.values())).float()) / distributed.world()
        named = dict(zip(losses, values.tolist(), strict=True))
        total = sum(named.values())
        if not math.isfinite(total):
            raise UserError(
                f"The loss is {total} at iteration {self.iteration} ({named}). Lower --lr or add --clip 10; "
                "the last good checkpoint is kept, go on with --resume."
            )
        record = {
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": total,
            "losses": named,
            "seconds_per_iteration": timer.lap(self.iteration),
            "memory_mb": round(peak_memory_mb(self.device), 1),
        }
        return self.metrics.train(self.iteration, record)

    def _finished(self) -> dict[str, Any] | None:
        """The result of a run that has nothing left to do."""
        path = self.config.out / "result.json"
        if self.iteration < self.total or not path.exists():
            return None
        self.log.say(f"{self.config.out} is finished already.")
        return json.loads(path.read_text())

    def _finish(self, timer: Timer) -> dict[str, Any]:
        found = self.evaluate()
        result = {
            **found,
            "iterations": self.iteration,
            "parameters": sum(p.numel() for p in self.detector.parameters()),
            "seconds_per_iteration": timer.mean(),
            "memory_mb": round(peak_memory_mb(self.device), 1),
            "method": self.config.distill.method if self.config.distill else "none",
            "device": str(self.device),
        }
        if distributed.rank() == 0:
            checkpoint.write_atomically(
                self.config.out / "result.json", json.dumps(result, indent=2).encode()
            )
        return result
