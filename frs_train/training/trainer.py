"""The training loop, with metrics, checkpoints and evaluations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from frs_train import distributed
from frs_train.config import RunConfig
from frs_train.data.dataset import CocoDetection
from frs_train.data.loader import loaded
from frs_train.data.order import TrainingOrder
from frs_train.errors import Stopped, UserError
from frs_train.evaluation.coco_metrics import evaluate
from frs_train.evaluation.complexity import parameter_count
from frs_train.log import Log
from frs_train.training.cost import Timer, peak_memory_mb
from frs_train.training.losses import read_losses
from frs_train.training.metrics import Metrics
from frs_train.training.run_folder import RunFolder
from frs_train.training.schedule import evaluation_due, line_due, save_due
from frs_train.training.signals import Signals
from frs_train.training.state import TrainingState
from frs_train.training.step import MicroBatch, Step, current_losses, optimizer_step

FAILED = 1000  # greater than every signal number


class Trainer:
    """Trains a run from the iteration of its state to the last iteration."""

    def __init__(
        self,
        config: RunConfig,
        state: TrainingState,
        datasets: tuple[CocoDetection, CocoDetection],
        folder: RunFolder,
        metrics: Metrics,
        log: Log,
        signals: Signals,
    ):
        self.config, self.state, self.folder = config, state, folder
        self.train_set, self.val_set = datasets
        self.metrics, self.log, self.signals = metrics, log, signals
        self.saved_at = state.iteration
        self.last_batch: MicroBatch = None  # the last one that a step has used

    def fit(self) -> dict[str, Any]:
        """Trains and evaluates; returns the content of `result.json`."""
        state, total = self.state, self.state.total
        if state.iteration >= total and (result := self.folder.result()):
            self.log.say(f"{self.config.out} is already finished.")
            return result
        self.metrics.forget_after(state.iteration)
        self.folder.start(self.config)
        timer = Timer(state.iteration)
        with self.log.progress(total, state.iteration, "training") as tell, self._loaded() as batches:
            self._loop(timer, tell, batches)
        result = self._result(self.evaluate(), timer)
        self.folder.finish(result)
        return result

    def _loop(self, timer: Timer, tell: Callable[..., None], batches: Iterator[MicroBatch]) -> None:
        state, config, module = self.state, self.config.train, self._wrapped()
        if evaluation_due(config, state.iteration, state.total):
            self.evaluate()  # the run may have been stopped before this evaluation
        while state.iteration < state.total:
            parts = self._next(batches)
            due = line_due(config, state.iteration + 1, state.total)
            step, self.last_batch = optimizer_step(state, module, parts, measure=due), parts[-1]
            if due:
                tell(**self._report(step, timer))
            tell(completed=state.iteration)
            if save_due(config, state.iteration, state.total):
                self.save()
            if evaluation_due(config, state.iteration, state.total):
                with timer.paused():
                    self.evaluate()

    def _next(self, batches: Iterator[MicroBatch]) -> list[MicroBatch]:
        """The micro-batches of the next step; a signal interrupts the wait for them.

        If a process cannot continue or has caught a signal, all processes save and stop.
        """
        step, problem = [], None
        try:
            with self.signals.interruptible():
                step = [next(batches) for _ in range(self.config.train.accumulate)]
            problem = next((batch for batch in step if isinstance(batch, UserError)), None)
        except KeyboardInterrupt:
            pass  # `signals.caught` has the number of the signal
        except UserError as error:
            problem = error
        reason = distributed.any_of(FAILED if problem else self.signals.caught)
        if not reason:
            return step
        self.save()
        if problem:
            raise problem
        if reason == FAILED:
            raise UserError("Another process of this run cannot continue; its message says why.")
        iteration = self.state.iteration
        raise Stopped.by(reason, f"at iteration {iteration}; saved" if iteration else "before the first step")

    def evaluate(self) -> dict[str, Any]:
        """Evaluates the weights, records the scores, and copies the checkpoint to `best.pt` if its AP is the
        highest.

        The scores of an evaluation from before a resumed run was stopped are reused.
        """
        iteration, device = self.state.iteration, self.state.device
        if iteration in self.metrics.evaluated:
            return self.metrics.evaluated[iteration]
        detector, workers = self.state.detector, self.config.data.workers
        progress = self.log.progress(len(self.val_set), 0, "evaluating")
        try:
            with progress as tell, self.signals.interruptible():
                scores = evaluate(detector, self.val_set, device, workers=workers, tell=tell)
        except KeyboardInterrupt:
            where = f"in the evaluation at iteration {iteration}; saved"
            raise Stopped.by(self.signals.caught, where) from None
        best = self.metrics.is_best(scores)
        if best:
            self.folder.keep_as_best(iteration)
        self.metrics.eval(iteration, scores, best)
        self.metrics.masks(iteration, detector, self.val_set, device)
        return scores

    def save(self) -> None:
        """Writes the checkpoint of this iteration, unless it exists.

        The loss of the last batch with the new weights must be finite: a run that resumed from other weights
        could not recover.
        """
        iteration = self.state.iteration
        if iteration == self.saved_at:
            return
        losses = current_losses(self.state, self.last_batch)
        read_losses(losses, f"with the weights after step {iteration}", self.saved_at)
        self.saved_at = iteration
        if self.folder.writes:
            self.folder.save(iteration, self.state.content(self.train_set.coco.classes))

    def _loaded(self) -> contextlib.AbstractContextManager[Iterator[MicroBatch]]:
        t = self.config.train
        order = TrainingOrder(
            len(self.train_set), t.batch_size, t.seed, self.state.iteration, self.state.total,
            distributed.rank(), distributed.world(), t.accumulate,
        )  # fmt: skip
        return loaded(self.train_set, order, self.config.data.workers, self.state.device)

    def _wrapped(self) -> nn.Module:
        if distributed.world() == 1:
            return self.state.learner
        device = self.state.device
        return DistributedDataParallel(
            self.state.learner, device_ids=[device.index] if device.type == "cuda" else None
        )

    def _report(self, step: Step, timer: Timer) -> dict[str, str]:
        """Writes a line of training metrics; returns the fields of the progress bar."""
        iteration = self.state.iteration
        values = read_losses(step.losses, f"of step {iteration}", self.saved_at)
        named = {name: values.pop(name) for name, loss in step.losses.items() if not loss.dim()}
        record = {
            "lr": self.state.optimizer.param_groups[0]["lr"],
            "loss": sum(named.values()),
            "losses": named,
            "levels": values,
            "ratios": step.ratios,
            "seconds_per_iteration": timer.lap(iteration),
            "memory_mb": peak_memory_mb(self.state.device),
        }
        return self.metrics.train(iteration, record)

    def _result(self, scores: dict[str, Any], timer: Timer) -> dict[str, Any]:
        return {
            **scores,
            "iterations": self.state.iteration,
            "parameters": parameter_count(self.state.student),
            "seconds_per_iteration": timer.mean(),
            "memory_mb": peak_memory_mb(self.state.device),
            "method": self.config.distill.method if self.config.distill else "none",
            "device": str(self.state.device),
        }
