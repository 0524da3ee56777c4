"""The optimiser, the learning rate as a function of the iteration, and how long a warm-up may take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from frs_train.config import RunConfig, TrainConfig

WARMUP_SHARE = 4  # a warm-up takes no more than one part of so many of the run


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
    rise = warmup_within(total, config.lr_warmup)
    if config.schedule == "one-cycle":  # cosine up from 1/25, cosine down to 1/1000
        if iteration < rise:
            return _cosine(peak / 25, peak, iteration / rise)
        return _cosine(peak, peak / 1000, (iteration - rise) / (total - rise))
    warmup = min(1.0, 0.001 + 0.999 * iteration / rise) if rise else 1.0
    return peak * warmup * 0.1 ** sum(iteration >= step * total for step in config.lr_steps)


def warmup_within(total: int, asked: int) -> int:
    """Iterations of a warm-up in a run of `total`: those asked for, but a quarter of the run at most, or a
    short run would end before it."""
    return min(asked, total // WARMUP_SHARE)


def shorten_warmups(config: RunConfig, total: int, say: Callable[[str], None]) -> RunConfig:
    """The configuration with both warm-ups as a run of `total` iterations takes them; if that is shorter than
    asked for, it is said."""
    asked = {"--lr-warmup": config.train.lr_warmup}
    if config.distill and config.distill.method != "none":
        asked["--warmup-iters"] = config.distill.warmup_iters
    taken = {option: warmup_within(total, warmup) for option, warmup in asked.items()}
    shorter = [f"{o} {asked[o]} becomes {taken[o]}" for o in asked if taken[o] < asked[o]]
    if not shorter:
        return config
    say(f"A warm-up takes a quarter of the run at most. Of {total} iterations: {', '.join(shorter)}.")
    distill = config.distill and replace(
        config.distill, warmup_iters=warmup_within(total, config.distill.warmup_iters)
    )
    train = replace(config.train, lr_warmup=taken["--lr-warmup"])
    return replace(config, train=train, distill=distill)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
