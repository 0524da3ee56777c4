"""One optimizer step: forward, backward, clipping, update, moving average."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from frs_train import distributed
from frs_train.data.loader import to_device
from frs_train.streams import Stream, seed_of
from frs_train.training.learner import autocast
from frs_train.training.schedule import learning_rate
from frs_train.training.state import TrainingState

MicroBatch = Any  # an item of the loader: a `Batch`, or the `UserError` of an unreadable image


def optimizer_step(state: TrainingState, module: nn.Module, batches: list[MicroBatch]) -> dict[str, Tensor]:
    """Accumulates the gradients of the micro-batches and takes one optimizer step.

    Returns the mean losses by name, as tensors on the device: 0-d ones, and the learner's `level_losses`
    [levels]. Every random draw is a function of seed, iteration and process, so that no generator state has
    to be saved.

    Args:
        module: `state.learner`, or its DistributedDataParallel wrapper.
    """
    config = state.config.train
    torch.manual_seed(seed_of(config.seed, Stream.STEP, state.iteration, distributed.rank()))
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, state.iteration, state.total)
    module.train()
    state.optimizer.zero_grad(set_to_none=True)
    mean: dict[str, Tensor] = {}
    for number, batch in enumerate(batches, start=1):
        wrapped = isinstance(module, DistributedDataParallel)
        with module.no_sync() if wrapped and number < len(batches) else contextlib.nullcontext():
            losses = _losses(state, module, batch)
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
    return mean


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
