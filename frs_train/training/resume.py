"""Going on from a checkpoint: whether a run may, and putting back what optimiser and gradient scaler knew."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, FiniteFloat, NonNegativeInt, TypeAdapter
from torch import Tensor
from typing_extensions import TypedDict

from frs_train.config import RunConfig
from frs_train.errors import UserError
from frs_train.training import checkpoint

STRICT = ConfigDict(extra="allow", strict=True, arbitrary_types_allowed=True)
STATE = {
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
}  # what each keeps for a parameter


class OptimizerState(TypedDict):
    """What is put back of an optimiser. Its options are the configuration's."""

    __pydantic_config__ = STRICT
    state: dict[NonNegativeInt, dict[str, Tensor | None]]


class ScalerState(TypedDict):
    """`GradScaler.state_dict()` of one that is enabled."""

    __pydantic_config__ = STRICT
    scale: Annotated[float, Field(gt=0, lt=2.0**127)]
    growth_factor: FiniteFloat
    backoff_factor: FiniteFloat
    growth_interval: Annotated[int, Field(gt=0, lt=2**31)]
    _growth_tracker: Annotated[int, Field(ge=0, lt=2**31)]


OPTIMIZER, SCALER = TypeAdapter(OptimizerState), TypeAdapter(ScalerState)


def refuse_other(saved: dict[str, Any], config: RunConfig, classes: list[str]) -> None:
    """Raises `UserError` unless a run of these options and classes can go on from a checkpoint's content."""
    name = str(config.out)
    checkpoint.checked(checkpoint.RESUMABLE, saved, f"The newest checkpoint of {name}")
    before, now = fixed(checkpoint.config_of(saved)), fixed(config)
    for option, value in now.items():
        if before[option] != value:
            raise UserError(
                f"{name} cannot go on with another --{option}: it was {before[option]} and is {value} now. "
                "Give it as it was, or choose another --out."
            )
    if saved["classes"] != classes:
        raise UserError(
            f"{name} cannot go on with other classes: it learns {', '.join(saved['classes'])}, and the "
            f"annotations name {', '.join(classes)}. Give those it has, or choose another --out."
        )


def fixed(config: RunConfig) -> dict[str, Any]:
    """The options that decide which tensors a run has, by name: they stay as they are from start to end."""
    detector = {f.name: getattr(config.detector, f.name) for f in dataclasses.fields(config.detector)}
    learns = config.distill is not None and config.distill.method != "none"
    options = {
        "detector": detector.pop("family"),
        **detector,
        "optimizer": config.train.optimizer,
        "ema": "on" if config.train.ema else "off",
        "method": config.distill.method if learns else "none",
        "adapter": config.distill.adapter if learns else "none",
    }
    return {option.replace("_", "-"): value for option, value in options.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], name: str) -> None:
    """Puts back what an optimiser keeps for each parameter. Raises `UserError` if it does not fit."""
    name = f"The optimiser in {name}"
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = checkpoint.checked(OPTIMIZER, saved, name)["state"]
    for number, kept in state.items():
        if number >= len(parameters) or not _fits(kept, parameters[number], STATE[type(optimizer)]):
            raise UserError(f"{name} does not fit parameter {number}. Choose another --out.")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _fits(kept: dict[str, Tensor | None], parameter: Tensor, names: set[str]) -> bool:
    shapes = {name: () if name == "step" else parameter.shape for name in names}
    optional = {"momentum_buffer"}  # None before the first step
    return kept.keys() == names and all(
        name in optional if value is None else value.shape == shapes[name] for name, value in kept.items()
    )


def load_scaler(scaler: torch.amp.GradScaler, saved: dict[str, Any], name: str) -> None:
    """Puts back a gradient scaler, unless the run had none or has none now (another --amp)."""
    if saved and scaler.is_enabled():
        scaler.load_state_dict(checkpoint.checked(SCALER, saved, f"The gradient scaler in {name}"))
