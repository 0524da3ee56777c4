"""One optimizer step: forward, backward, clipping, update, moving average."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from frs_train import distributed
from frs_train.data.loader import to_device
from frs_train.streams import Stream, seed_of
from frs_train.training.learner import autocast
from frs_train.training.ratios import gradient_ratios, watched
from frs_train.training.schedule import learning_rate
from frs_train.training.state import TrainingState

MicroBatch = Any  # an item of the loader: a `Batch`, or the `UserError` of an unreadable image


class Step(NamedTuple):
    """What an optimizer step tells about itself."""

    losses: dict[str, Tensor]
    """Mean losses of the micro-batches by name, on the device: 0-d ones, and `level_losses` [levels]."""
    ratios: dict[str, float]
    """See `gradient_ratios`: of the last micro-batch of this process; empty unless they are measured."""


def optimizer_step(
    state: TrainingState, module: nn.Module, batches: list[MicroBatch], measure: bool = False
) -> Step:
    """Accumulates the gradients of the micro-batches and takes one optimizer step.

    Every random draw is a function of seed, iteration and process, so that no generator state has to be
    saved.

    Args:
        module: `state.learner`, or its DistributedDataParallel wrapper.
        measure: also measure how strongly the distillation pulls, which changes nothing else.
    """
    config = state.config.train
    torch.manual_seed(seed_of(config.seed, Stream.STEP, state.iteration, distributed.rank()))
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, state.iteration, state.total)
    module.train()
    state.optimizer.zero_grad(set_to_none=True)
    mean: dict[str, Tensor] = {}
    ratios: dict[str, float] = {}
    for number, batch in enumerate(batches, start=1):
        wrapped = isinstance(module, DistributedDataParallel)
        last = number == len(batches)
        with module.no_sync() if wrapped and not last else contextlib.nullcontext():
            with watched(state.learner, measure and last) as feats:
                losses = _losses(state, module, batch)
            if feats:
                ratios = gradient_ratios({k: state.scaler.scale(v) for k, v in losses.items()}, feats)
            state.scaler.scale(sum(losses.values()) / len(batches)).backward()  # pyright: ignore[reportArgumentType, reportCallIssue]  # never an empty sum
        for name, loss in (losses | state.learner.level_losses).items():
            mean[name] = mean.get(name, 0) + loss.detach() / len(batches)
    if config.clip:
        state.scaler.unscale_(state.optimizer)
        parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, config.clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.ema:
        state.ema.update_parameters(state.student)
    state.reach(state.iteration + 1)
    return Step(mean, ratios)


@torch.no_grad()
def current_losses(state: TrainingState, batch: MicroBatch) -> dict[str, Tensor]:
    """The losses of a micro-batch with the current weights.

    Has no side effects on the training: the buffers (running means, warm-up) are restored, and the next step
    seeds the generators.
    """
    buffers = [(buffer, buffer.clone()) for buffer in state.learner.buffers()]
    losses = _losses(state, state.learner.train(), batch)
    for buffer, before in buffers:
        buffer.copy_(before)
    return losses


def _losses(state: TrainingState, module: nn.Module, batch: MicroBatch) -> dict[str, Tensor]:
    sizes = state.config.detector.min_size
    size = sizes[seed_of(state.config.train.seed, Stream.SIZE, state.iteration) % len(sizes)]
    images, targets = to_device(batch, state.device)
    with autocast(state.device, state.config.train.amp):
        return module(images, targets, size)
