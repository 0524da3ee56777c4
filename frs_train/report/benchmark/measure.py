"""`benchmark(...)`, which measures detectors in turns."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from frs_train import machine
from frs_train.evaluation.latency import TURNS, Latency, measure_in_turns
from frs_train.log import Log
from frs_train.report.benchmark.models import Candidate, candidate, open_models, size_of

NOISY = 0.5  # a spread of the latency, as a fraction of its median, that is worth a warning


@dataclass(frozen=True)
class Row:
    """A model in a runtime at an image size, and its latency."""

    candidate: Candidate
    latency: Latency
    """Of the detection in a batch."""
    smaller: float
    """Parameters of the first model / parameters of this one."""
    faster: float
    """Median latency of the first row of this size / median latency of this one."""


@dataclass(frozen=True)
class Benchmark:
    """The result of a benchmark."""

    machine: dict[str, Any]
    batch_size: int
    seconds: float
    rows: list[Row]
    """Size by size; in each size, in the order of the sources."""


def benchmark(
    sources: Sequence[str],
    *,
    sizes: Sequence[int] = (),
    batch_size: int = 1,
    seconds: float = 5.0,
    device: torch.device,
    log: Log,
) -> Benchmark:
    """Measures the detection of several detectors in turns.

    A call is `Detector.detect` in evaluation mode: it normalizes, scales and pads the images, runs the
    network, decodes the boxes and removes duplicates. The images are in memory, on the device: reading and
    decoding their files is no part of it. Each is the same photograph of `size` x `size` pixels.

    Args:
        sources: run folders, checkpoint files or `torchvision:NAME`.
        sizes: sides of the images in pixels; empty: the size of each detector's evaluation.
        batch_size: images in a call.
        seconds: time for the timed calls of each model at each size.

    Raises:
        UserError: a source cannot be read, or a size is too large for its detector.
    """
    models = open_models(sources, device, log)
    sides = [[size_of(model, size) for model in models] for size in sizes or (None,)]
    groups = [
        [candidate(model, side, photograph(side, device)) for model, side in zip(models, row, strict=True)]
        for row in sides
    ]
    everyone = [one for group in groups for one in group]
    calls = [functools.partial(one.detect, [photograph(one.size, device)] * batch_size) for one in everyone]
    with log.progress(TURNS * len(calls), 0, "measuring") as tell:
        latencies = iter(measure_in_turns(calls, seconds, tell))
    rows = [row for group in groups for row in compared(group, [next(latencies) for _ in group])]
    for row in rows:
        if row.latency.spread > NOISY:
            log.warn(
                f"The times of {row.candidate.name} at {row.candidate.size} pixels spread by "
                f"{row.latency.spread:.0%} of their median: something else may be running. Measure again on "
                "a quiet machine, or with more --seconds."
            )
    return Benchmark(machine.describe(device), batch_size, seconds, rows)


def compared(group: Sequence[Candidate], latencies: Sequence[Latency]) -> list[Row]:
    """The rows of one size, compared with the first."""
    return [
        Row(one, latency, group[0].parameters / one.parameters, latencies[0].median / latency.median)
        for one, latency in zip(group, latencies, strict=True)
    ]


def photograph(side: int, device: torch.device) -> Tensor:
    """A photograph [3, side, side] in 0..1, so that there is something to detect."""
    with Image.open(str(files("skimage") / "data" / "astronaut.png")) as file:
        image = file.convert("RGB").resize((side, side))
    return functional.to_dtype(functional.pil_to_tensor(image), torch.float32, scale=True).to(device)
