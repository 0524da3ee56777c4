"""The command `benchmark`, which compares detectors by size, speed and AP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from frs_train.cli.command import Command, Positional
from frs_train.config import Images, Processes
from frs_train.errors import UserError
from frs_train.options import Options, real, several, whole

if TYPE_CHECKING:
    from frs_train.log import Log


@dataclass(frozen=True)
class BenchmarkConfig(Options):
    """Options of `benchmark`."""

    runs: Positional[tuple[str, ...]]
    """Run folders (the newest checkpoint is used), checkpoint files, torchvision:NAME, or ONNX files; the
    others are compared with the first, a teacher for example."""
    sizes: several(whole(32, 2**14), 0) = ()
    """Sides of the square images in pixels; none: the size of each detector's evaluation, that of its AP."""
    runtime: tuple[Literal["torch", "onnx"], ...] = ("torch",)
    """Runtimes in which each run is measured; onnx is the file that `export --format onnx` would write."""
    batch_size: Images = 1
    """Images per detection call."""
    seconds: real(0, 3600, above=True) = 5.0
    """Time for the timed calls of each model at each size; there are at least 10 calls."""
    threads: Processes = 0
    """CPU threads; 0 keeps PyTorch's default."""
    device: str = "auto"
    """`cpu`, `cuda` or `cuda:INDEX`; `auto` uses a GPU if there is one."""
    out: Path | None = None
    """Folder for benchmark.json, benchmark.md and benchmark.png, which replace those that are in it."""

    def check(self) -> None:
        if not self.runs:
            raise UserError("RUNS is missing: give one run or more, the teacher first.")
        if not self.runtime or len(set(self.runtime)) < len(self.runtime):
            raise UserError("--runtime needs torch, onnx or both, each once.")


def benchmark(config: BenchmarkConfig, log: Log) -> None:
    import torch

    from frs_train.cli.detector import device_for
    from frs_train.report.benchmark import output
    from frs_train.report.benchmark.measure import benchmark
    from frs_train.report.benchmark.models import is_onnx

    onnx = "onnx" in config.runtime or any(map(is_onnx, config.runs))
    device = device_for(config.device, onnx)
    if config.threads:
        torch.set_num_threads(config.threads)
    result = benchmark(
        config.runs,
        sizes=config.sizes,
        runtimes=config.runtime,
        batch_size=config.batch_size,
        seconds=config.seconds,
        device=device,
        log=log,
    )
    output.show(result, log)
    if config.out is not None:
        log.say(f"Wrote {', '.join(output.write(result, config.out))} to {config.out}.")


BENCHMARK = Command(
    "Compare detectors: parameters, operations and latency, next to the AP of their runs.",
    BenchmarkConfig,
    benchmark,
)
