"""Processes and devices: the collectives that training needs, which do nothing in a single process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from frs_train.errors import UserError


def rank() -> int:
    """The number of this process; 0 if it is alone."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def group(device: torch.device) -> Iterator[None]:
    """Joins the processes that torchrun started while the block lasts; does nothing in a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    # gloo for flags and evaluation results, which are on the CPU; nccl for gradients on a GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """The device with this name; `auto` is the GPU of this process if there is one. Raises `UserError` if the
    device does not exist."""
    if name != "auto":
        if name not in devices():
            raise UserError(f"--device is {name}. Available are auto, {', '.join(devices())}.")
        try:
            return torch.empty(0, device=name).device  # with its index
        except RuntimeError as error:
            raise UserError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def devices() -> list[str]:
    """Names of the devices of this machine."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count()
    if kind is None or count == 0:
        return ["cpu"]
    return ["cpu", kind.type, *(f"{kind.type}:{i}" for i in range(count))]


def any_of(flag: int) -> int:
    """The largest flag of all processes."""
    if world() == 1:
        return flag
    flags = torch.tensor(flag)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return int(flags)


def add(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place."""
    if world() > 1:
        dist.all_reduce(values)
    return values


def mean(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes."""
    return add(values) / world()


def gather(value: Any) -> list[Any]:
    """The objects of all processes, in the order of their ranks."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values
