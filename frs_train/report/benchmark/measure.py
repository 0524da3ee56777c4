"""`benchmark(...)`, which measures detectors in turns."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from frs_train import machine
from frs_train.detectors import OnnxDetector
from frs_train.evaluation.latency import TURNS, Latency, measure_in_turns
from frs_train.log import Log
from frs_train.report.benchmark.candidates import Candidate, candidates, canvas_of, photograph
from frs_train.report.benchmark.models import Model, open_models

NOISY = 0.5  # a spread of the latency, as a fraction of its median, that is worth a warning


@dataclass(frozen=True)
class Row:
    """A model in a runtime at an image size, and its latency."""

    candidate: Candidate
    latency: Latency
    """Of the detection in a batch."""
    smaller: float | None
    """Parameters of the first model / parameters of this one; None if one is not known."""
    faster: float
    """Median latency of the first row of this size / median latency of this one."""


@dataclass(frozen=True)
class Benchmark:
    """The result of a benchmark."""

    machine: dict[str, Any]
    batch_size: int
    seconds: float
    rows: list[Row]
    """Size by size; in each size, in the order of the sources and the runtimes."""


def benchmark(
    sources: Sequence[str],
    *,
    sizes: Sequence[int] = (),
    runtimes: Sequence[str] = ("torch",),
    batch_size: int = 1,
    seconds: float = 5.0,
    device: torch.device,
    log: Log,
) -> Benchmark:
    """Measures the detection of several detectors in turns.

    A call is `Detector.detect` in evaluation mode: it normalizes, scales and pads the images, runs the
    network, decodes the boxes and removes duplicates. The images are in memory, on the device: reading and
    decoding their files is no part of it. Each is the same photograph of `size` x `size` pixels. Likewise
    `OnnxDetector.detect`, whose network runs on the whole input for which it was exported.

    Args:
        sources: run folders, checkpoint files, `torchvision:NAME` or ONNX files.
        sizes: sides of the images in pixels; empty: the size of each detector's evaluation.
        runtimes: `torch`, `onnx` or both, in which each run is measured; onnx needs the CPU as `device`.
        batch_size: images in a call.
        seconds: time for the timed calls of each model at each size.

    Raises:
        UserError: a source cannot be read or exported, or a size is too large for its detector.
    """
    models = open_models(sources, device, log)
    groups = [
        [one for model, side in row for one in candidates(model, side, runtimes, photograph(side, device))]
        for row in _sides(models, sizes)
    ]
    for model in models:
        if isinstance(model.detector, OnnxDetector) and model.detector.canvas != canvas_of(model.own_size):
            height, width = model.detector.canvas
            log.say(f"{model.source} always runs on {height} x {width} pixels, whatever the image.")
    everyone = [one for group in groups for one in group]
    calls = [functools.partial(one.detect, [photograph(one.size, device)] * batch_size) for one in everyone]
    with log.progress(TURNS * len(calls), 0, "measuring") as tell:
        latencies = iter(measure_in_turns(calls, seconds, tell))
    rows = [row for group in groups for row in compared(group, [next(latencies) for _ in group])]
    warn_of_noise(rows, log)
    return Benchmark(_facts(device, everyone), batch_size, seconds, rows)


def _sides(models: Sequence[Model], sizes: Sequence[int]) -> list[list[tuple[Model, int]]]:
    """The models with their image sides, one list for each of `sizes`, or one for the models' own sizes."""
    for model in models:
        for size in sizes:
            model.check_size(size)
    if not sizes:
        return [[(model, model.own_size) for model in models]]
    return [[(model, size) for model in models] for size in sizes]


def _facts(device: torch.device, measured: Sequence[Candidate]) -> dict[str, Any]:
    """The machine and the versions of the runtimes."""
    if all(one.runtime == "torch" for one in measured):
        return machine.describe(device)
    return machine.describe(device) | {"onnxruntime": version("onnxruntime")}


def warn_of_noise(rows: Sequence[Row], log: Log) -> None:
    """Warns if times are too different from each other."""
    widest = max(row.latency.spread for row in rows)
    if widest > NOISY:
        log.warn(
            f"The times of a model spread by up to {widest:.0%} of their median: something else may be "
            "running. Measure again on a quiet machine, or with more --seconds."
        )


def compared(group: Sequence[Candidate], latencies: Sequence[Latency]) -> list[Row]:
    """The rows of one size, compared with the first."""
    first = group[0]
    return [
        Row(
            candidate=one,
            latency=latency,
            smaller=first.parameters / one.parameters if first.parameters and one.parameters else None,
            faster=latencies[0].median / latency.median,
        )
        for one, latency in zip(group, latencies, strict=True)
    ]
