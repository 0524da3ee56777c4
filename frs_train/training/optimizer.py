"""The optimizer and the gradient scaler: created from a configuration, restored from a checkpoint."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, FiniteFloat, NonNegativeInt, TypeAdapter
from torch import Tensor, nn
from typing_extensions import TypedDict

from frs_train.config import TrainConfig
from frs_train.errors import UserError
from frs_train.training import checkpoint

STRICT = ConfigDict(extra="allow", strict=True, arbitrary_types_allowed=True)
STATE = {
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
}  # optimizer -> names of the tensors that it stores per parameter


class OptimizerState(TypedDict):
    """The part of an optimizer's state that is restored. Its options come from the configuration."""

    __pydantic_config__ = STRICT  # pyright: ignore[reportGeneralTypeIssues]  # for pydantic
    state: dict[NonNegativeInt, dict[str, Tensor | None]]


class ScalerState(TypedDict):
    """`GradScaler.state_dict()` of an enabled scaler."""

    __pydantic_config__ = STRICT  # pyright: ignore[reportGeneralTypeIssues]  # for pydantic
    scale: Annotated[float, Field(gt=0, lt=2.0**127)]
    growth_factor: FiniteFloat
    backoff_factor: FiniteFloat
    growth_interval: Annotated[int, Field(gt=0, lt=2**31)]
    _growth_tracker: Annotated[int, Field(ge=0, lt=2**31)]


OPTIMIZER, SCALER = TypeAdapter(OptimizerState), TypeAdapter(ScalerState)


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW, for the parameters that are trained."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], name: str) -> None:
    """Restores the state that an optimizer stores per parameter. Raises `UserError` if it does not fit."""
    name = f"The optimizer in {name}"
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


def load_scaler(scaler: torch.amp.GradScaler, saved: dict[str, Any], name: str) -> None:  # pyright: ignore[reportPrivateImportUsage]  # documented there
    """Restores a gradient scaler if it is enabled in both the checkpoint and the configuration."""
    if saved and scaler.is_enabled():
        scaler.load_state_dict(checkpoint.checked(SCALER, saved, f"The gradient scaler in {name}"))
