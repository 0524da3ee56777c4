"""The optimiser, and the learning rate as a function of the iteration."""

from __future__ import annotations

import math

import torch
from torch import nn

from frs_train.config import TrainConfig


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW over the parameters that train."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


def learning_rate(config: TrainConfig, iteration: int, total: int) -> float:
    """The rate of an iteration (from 0) of a run of `total`."""
    peak = config.lr * (config.batch_size / config.lr_batch if config.lr_batch else 1.0)
    if config.schedule == "one-cycle":  # cosine up from 1/25, cosine down to 1/1000
        rise = min(config.lr_warmup, total // 4)
        if iteration < rise:
            return _cosine(peak / 25, peak, iteration / rise)
        return _cosine(peak, peak / 1000, (iteration - rise) / (total - rise))
    warmup = min(1.0, 0.001 + 0.999 * iteration / config.lr_warmup) if config.lr_warmup else 1.0
    return peak * warmup * 0.1 ** sum(iteration >= step * total for step in config.lr_steps)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
