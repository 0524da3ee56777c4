"""Losses as numbers: the mean over all processes, and the error if it is not finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from frs_train import distributed
from frs_train.errors import UserError


def read_losses(losses: dict[str, Tensor], what: str, saved_at: int) -> dict[str, float]:
    """The mean losses over the processes, by name.

    Raises `UserError` if one is not finite. `what` is put into "The loss ... is not finite"; `saved_at` is
    the iteration of the last checkpoint, 0 if there is none.
    """
    values = distributed.mean(torch.stack(list(losses.values())).float())
    named = dict(zip(losses, values.tolist(), strict=True))
    if all(map(math.isfinite, named.values())):
        return named
    advice = (
        f"The checkpoint of iteration {saved_at} is kept; its loss was finite. Resume from it with "
        "--resume and other options: with the same ones the run diverges again. If it still diverges, "
        "start again in another --out."
        if saved_at
        else "There is no earlier checkpoint to resume from: start again."
    )
    raise UserError(
        f"The loss {what} is not finite ({named}): the training diverged. Lower --lr or add --clip 10. "
        f"{advice}"
    )
