"""The schedule of a run: length, learning rate, warm-ups, and iterations of checkpoints and evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from frs_train.config import RunConfig, TrainConfig

WARMUP_SHARE = 4  # a warm-up takes at most a quarter of the run


def total_iterations(config: TrainConfig, images: int) -> int:
    """Optimizer steps of a run on a training set of `images` images."""
    return config.iterations or max(1, round(config.epochs * images / config.batch_size))


def save_due(config: TrainConfig, iteration: int, total: int) -> bool:
    """Whether a checkpoint is written after this iteration.

    The first one is written with the first line of the log, further ones at doubling iterations up to
    `checkpoint_every`, and then one every `checkpoint_every` iterations; also before each evaluation and at
    the end.
    """
    lines, rest = divmod(iteration, config.log_every)
    doubled = iteration < config.checkpoint_every and not rest and lines.bit_count() == 1
    regular = config.checkpoint_every > 0 and iteration % config.checkpoint_every == 0
    return doubled or regular or evaluation_due(config, iteration, total) or iteration == total


def line_due(config: TrainConfig, iteration: int, total: int) -> bool:
    """Whether a line of metrics is written after this iteration."""
    return iteration % config.log_every == 0 or iteration == total


def evaluation_due(config: TrainConfig, iteration: int, total: int) -> bool:
    """Whether the weights are evaluated after this iteration, not counting the evaluation at the end."""
    return config.eval_every > 0 and 0 < iteration < total and iteration % config.eval_every == 0


def learning_rate(config: TrainConfig, iteration: int, total: int) -> float:
    """The learning rate of an iteration, counted from 0, of a run of `total`."""
    peak = config.lr * (config.batch_size / config.lr_batch if config.lr_batch else 1.0)
    rise = warmup_within(total, config.lr_warmup)
    if config.schedule == "one-cycle":  # cosine up from 1/25, cosine down to 1/1000
        if iteration < rise:
            return _cosine(peak / 25, peak, iteration / rise)
        return _cosine(peak, peak / 1000, (iteration - rise) / (total - rise))
    warmup = min(1.0, 0.001 + 0.999 * iteration / rise) if rise else 1.0
    return peak * warmup * 0.1 ** sum(iteration >= step * total for step in config.lr_steps)


def warmup_within(total: int, requested: int) -> int:
    """Iterations of a warm-up in a run of `total`: as requested, but at most a quarter of the run, because a
    short run would otherwise end before its warm-up."""
    return min(requested, total // WARMUP_SHARE)


def shorten_warmups(config: RunConfig, total: int, say: Callable[[str], None]) -> RunConfig:
    """The configuration with both warm-ups limited for a run of `total` iterations. `say` gets a message if
    one is shortened."""
    requested = {"--lr-warmup": config.train.lr_warmup}
    if config.distill and config.distill.method != "none":
        requested["--warmup-iters"] = config.distill.warmup_iters
    taken = {option: warmup_within(total, warmup) for option, warmup in requested.items()}
    shorter = [f"{o} {requested[o]} becomes {taken[o]}" for o in requested if taken[o] < requested[o]]
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
