"""The training loop: `fit(config)` makes or resumes a run, and leaves its folder with everything to judge
it by (see `run_files`)."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from frs_train import distributed
from frs_train.config import RunConfig, TrainConfig
from frs_train.data.loader import loaded
from frs_train.data.order import TrainingOrder
from frs_train.errors import Stopped, UserError
from frs_train.evaluation.coco_metrics import evaluate
from frs_train.files import held, write_atomically
from frs_train.log import Log
from frs_train.options import to_dict
from frs_train.streams import mix
from frs_train.training import checkpoint, resume
from frs_train.training.cost import Timer, peak_memory_mb
from frs_train.training.datasets import open_data
from frs_train.training.determinism import reproducible
from frs_train.training.learners import make_learner
from frs_train.training.metrics import Metrics
from frs_train.training.optimizer import shorten_warmups
from frs_train.training.run_files import read_result
from frs_train.training.signals import Signals
from frs_train.training.state import Part, TrainingState

FAILED = 1000  # above every signal's number


def fit(config: RunConfig, log: Log | None = None) -> dict[str, Any]:
    """Trains, evaluates and returns the content of `result.json`.

    Raises `UserError` for what the user can put right and `Stopped` after a signal; both leave a checkpoint.
    """
    device = distributed.pick_device(config.train.device)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    with (
        distributed.group(device),
        reproducible(config.train.deterministic),
        Signals().heard() as stop,
        held(config.out),
    ):
        try:
            with _interruptible(stop):
                run = Run(config, device, log or Log(), stop)
        except KeyboardInterrupt:
            raise Stopped.by(stop.caught, "before the first step") from None
        return run.fit()


def _interruptible(stop: Signals) -> contextlib.AbstractContextManager[None]:
    """A signal ends the block at once, by `KeyboardInterrupt`. Not where processes work together: the others
    would wait for one that leaves alone, so they agree on it between two steps."""
    return stop.interruptible() if distributed.world() == 1 else contextlib.nullcontext()


def save_due(t: TrainConfig, iteration: int, total: int) -> bool:
    """Whether a run saves after this iteration: with the first line of its log, each time it is twice as long
    until that is `checkpoint_every`, then every so many; before an evaluation, and at the end."""
    lines, rest = divmod(iteration, t.log_every)
    doubled = iteration < t.checkpoint_every and not rest and lines.bit_count() == 1
    regular = t.checkpoint_every > 0 and iteration % t.checkpoint_every == 0
    return doubled or regular or evaluation_due(t, iteration, total) or iteration == total


def evaluation_due(t: TrainConfig, iteration: int, total: int) -> bool:
    """Whether a run evaluates after this iteration, apart from its end."""
    return t.eval_every > 0 and 0 < iteration < total and iteration % t.eval_every == 0


class Run:
    """A configuration brought to life: data, learner, optimiser, and the iteration they have reached."""

    def __init__(self, config: RunConfig, device: torch.device, log: Log, stop: Signals):
        self.config, self.device, self.log, self.stop = config, device, log, stop
        self.train_set, self.val_set = open_data(config, log)
        self.classes = self.train_set.coco.classes
        t = config.train
        self.total = t.iterations or max(1, round(t.epochs * len(self.train_set) / t.batch_size))
        saved = self._saved()
        torch.manual_seed(mix(t.seed, 0))
        fitting = shorten_warmups(config, self.total, log.say)
        learner = make_learner(fitting, self.classes, device, log, fresh=saved is None)
        self.state = TrainingState(config, learner, device, self.total)
        if saved is not None:
            self.state.restore(saved)
            log.say(f"Going on at iteration {self.iteration} of {self.total}.")
        self.saved_at = self.iteration
        self.batch: Part = None  # the last one learnt from
        self.metrics = Metrics(config.out, log, self.total, t.tensorboard)

    @property
    def iteration(self) -> int:
        """Steps done."""
        return self.state.iteration

    def fit(self) -> dict[str, Any]:
        """The loop, and the evaluation at its end."""
        result = self.config.out / "result.json"
        if self.iteration >= self.total and result.exists():
            self.log.say(f"{self.config.out} is finished already.")
            return read_result(result)
        self.metrics.forget_after(self.iteration)
        if distributed.rank() == 0:
            text = json.dumps(to_dict(self.config), indent=2)
            write_atomically(self.config.out / "config.json", text.encode())
            result.unlink(missing_ok=True)  # of a shorter run, or of weights that could not be read again
        timer = Timer(self.iteration)
        with self.log.progress(self.total, self.iteration, "training") as tell, self._loaded() as batches:
            self._loop(timer, tell, batches)
        return self._finish(timer)

    def _loop(self, timer: Timer, tell: Callable[..., None], batches: Iterator) -> None:
        t = self.config.train
        module = self._wrapped()
        if evaluation_due(t, self.iteration, self.total):
            self.evaluate()  # unless that was done before the run was stopped
        while self.iteration < self.total:
            parts = self._next(batches)
            losses, self.batch = self.state.step(module, parts), parts[-1]
            if self.iteration % t.log_every == 0 or self.iteration == self.total:
                tell(**self._report(losses, timer))
            tell(completed=self.iteration)
            if save_due(t, self.iteration, self.total):
                self.save()
            if evaluation_due(t, self.iteration, self.total):
                with timer.paused():
                    self.evaluate()

    def _next(self, batches: Iterator) -> list[Part]:
        """The parts of the next step, waited for with an ear for signals.

        If a process cannot go on, or is asked to stop, all of them save what they have and leave.
        """
        parts, problem = [], None
        try:
            with _interruptible(self.stop):
                parts = [next(batches) for _ in range(self.config.train.accumulate)]
            problem = next((part for part in parts if isinstance(part, UserError)), None)
        except KeyboardInterrupt:
            pass  # `stop` has the signal
        except UserError as error:
            problem = error
        reason = distributed.any_of(FAILED if problem else self.stop.caught)
        if not reason:
            return parts
        self.save()
        if problem:
            raise problem
        if reason == FAILED:
            raise UserError("Another process of this run cannot go on; it says why.")
        where = f"at iteration {self.iteration}; saved" if self.iteration else "before the first step"
        raise Stopped.by(reason, where)

    def _loaded(self) -> contextlib.AbstractContextManager[Iterator]:
        t = self.config.train
        order = TrainingOrder(
            len(self.train_set), t.batch_size, t.seed, self.iteration, self.total,
            distributed.rank(), distributed.world(), t.accumulate,
        )  # fmt: skip
        return loaded(self.train_set, order, self.config.data.workers, self.device)

    def evaluate(self) -> dict[str, Any]:
        """Evaluates the weights, writes the line, and keeps their checkpoint as `best.pt` if none was better.

        What was evaluated before the run was stopped is not evaluated again.
        """
        done = self.metrics.evaluated.get(self.iteration)
        if done:
            return done
        detector, workers = self.state.detector, self.config.data.workers
        try:
            with self.log.progress(len(self.val_set), 0, "evaluating") as tell, _interruptible(self.stop):
                found = evaluate(detector, self.val_set, self.device, workers=workers, tell=tell)
        except KeyboardInterrupt:
            where = f"in the evaluation at iteration {self.iteration}; saved"
            raise Stopped.by(self.stop.caught, where) from None
        best = self.metrics.is_best(found)
        if best and distributed.rank() == 0:
            checkpoint.keep_as_best(checkpoint.path_of(self.config.out, self.iteration))
        self.metrics.eval(self.iteration, found, best)
        self.metrics.masks(self.iteration, detector, self.val_set, self.device)
        return found

    def save(self) -> None:
        """A checkpoint of this iteration if there is none, by process 0. First the last batch must have a
        finite loss with its weights, so that going on from it can come to something."""
        if self.iteration == self.saved_at:
            return
        self._read(self.state.losses(self.batch), "that the weights would give after")
        self.saved_at = self.iteration
        if distributed.rank() == 0:
            content = self.state.content(self.classes)
            checkpoint.save(self.config.out, self.iteration, content, self.config.train.keep)

    def _read(self, losses: dict[str, Tensor], which: str) -> dict[str, float]:
        """The processes' mean losses by name. Raises `UserError` if one is not finite."""
        values = distributed.mean(torch.stack(list(losses.values())).float())
        named = dict(zip(losses, values.tolist(), strict=True))
        if all(map(math.isfinite, named.values())):
            return named
        kept = (
            f"The checkpoint of iteration {self.saved_at} is kept; its loss was finite. Go on from it with "
            "--resume and other options: with the same ones it comes here again. If it does so all the same, "
            "start in another --out."
            if self.saved_at
            else "There is no checkpoint before that to go on from: start again."
        )
        raise UserError(
            f"The loss {which} step {self.iteration} is not finite ({named}): the training diverged. Lower "
            f"--lr or add --clip 10. {kept}"
        )

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
        resume.refuse_other(saved, self.config, self.classes)
        return saved

    def _wrapped(self) -> nn.Module:
        if distributed.world() == 1:
            return self.state.learner
        places = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.state.learner, device_ids=places)

    def _report(self, losses: dict[str, Tensor], timer: Timer) -> dict[str, str]:
        named = self._read(losses, "of")
        record = {
            "lr": self.state.optimizer.param_groups[0]["lr"],
            "loss": sum(named.values()),
            "losses": named,
            "seconds_per_iteration": timer.lap(self.iteration),
            "memory_mb": round(peak_memory_mb(self.device), 1),
        }
        return self.metrics.train(self.iteration, record)

    def _finish(self, timer: Timer) -> dict[str, Any]:
        found = self.evaluate()
        result = {
            **found,
            "iterations": self.iteration,
            "parameters": sum(p.numel() for p in self.state.student.parameters()),
            "seconds_per_iteration": timer.mean(),
            "memory_mb": round(peak_memory_mb(self.device), 1),
            "method": self.config.distill.method if self.config.distill else "none",
            "device": str(self.device),
        }
        if distributed.rank() == 0:
            write_atomically(self.config.out / "result.json", json.dumps(result, indent=2).encode())
        return result
