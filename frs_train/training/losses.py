"""Losses as numbers: the mean over all processes, and the error if one is not finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from frs_train import distributed
from frs_train.errors import Diverged


def read_losses(losses: dict[str, Tensor], what: str, saved_at: int) -> dict[str, float]:
    """The mean losses over the processes, by name; those of a tensor [levels] are NAME_0, NAME_1, ...

    Raises `Diverged` if one is not finite. `what` is put into "The loss ... is not finite"; `saved_at` is
    the iteration of the last checkpoint, 0 if there is none.
    """
    names = [key for name, loss in losses.items() for key in _names(name, loss)]
    values = distributed.mean(torch.cat([loss.reshape(-1).float() for loss in losses.values()]))
    named = dict(zip(names, values.tolist(), strict=True))
    wrong = {name: value for name, value in named.items() if not math.isfinite(value)}
    if not wrong:
        return named
    advice = (
        f"The checkpoint of iteration {saved_at} is kept; its loss was finite. Resume from it with "
        "--resume and other options: with the same ones the run diverges again. If it still diverges, "
        "start again in another --out."
        if saved_at
        else "There is no earlier checkpoint to resume from: start again."
    )
    raise Diverged(
        f"The loss {what} is not finite ({wrong}): the training diverged. Lower --lr or add --clip 10. "
        f"{advice}"
    )


def _names(name: str, loss: Tensor) -> list[str]:
    return [f"{name}_{level}" for level in range(len(loss))] if loss.dim() else [name]
