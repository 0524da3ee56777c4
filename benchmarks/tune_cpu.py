"""The CPU kernels against the roofs of this machine, and what each of their settings is worth here.

python -m benchmarks.tune_cpu

It takes a minute, wants an idle machine, and writes the page ``docs/cpu-tuning/<processor>.md``. What is
compared takes turns in this process, and the page has medians of ratios within a turn. The inputs are those
of RetinaNet at 800 x 1344 with one image, which no cache holds.
"""

import argparse
import contextlib
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import machine, memory, sources
from benchmarks.bandwidth import BUFFER, Copier
from benchmarks.cpu_calls import cached_seconds, operator_call
from benchmarks.timers import clock, timed
from benchmarks.workloads import LAYOUTS, WORKLOADS, Case
from frs_kernels import cpu_settings

FOLDER = sources.ROOT / "docs" / "cpu-tuning"
WORKLOAD = "retinanet-800x1344"
KINDS = tuple(itertools.product(("fp32", "bf16"), LAYOUTS))
NAMES = {"nchw": "NCHW", "nhwc": "channels_last"}
# The passes by name: operation and mode of a Case, and the roof of their bandwidth.
PASSES = {
    "mask": ("mask", "forward", "read"),
    "imitation term": ("imitation", "both", "copy"),
    "head term": ("head", "both", "copy"),
    "loss with gradients": ("loss", "both", "copy"),
    "single pass": ("loss", "forward", "read"),
}
# The values of each setting that are compared with the present one.
ALTERNATIVES = {
    "vector_bytes": (16, 32, 64),
    "prefetch_loss": (0, 256, 512, 1024, 2048),
    "prefetch_single": (0, 512, 1024, 2048, 8192),
    "prefetch_channels_last": (0, 512, 1024, 4096),
    "prefetch_mask_channels_last": (0, 1024, 4096),
    "prefetch_into_l2": (0, 1),
    "prefetch_rows": (0, 1, 2),
    "non_temporal_fp32": (0, 1),
    "non_temporal_fp32_channels_last": (0, 1),
    "non_temporal_bf16": (0, 1),
    "non_temporal_bf16_channels_last": (0, 1),
    "mask_row": (1024, 2048, 4096, 8192),
    "loss_row": (1024, 4096, 8192, 20480),
}
NOTABLE = 0.03  # ratios nearer to 1 are noise on most machines


def plays_a_part(setting: str, dtype: str, layout: str, mode: str) -> bool:
    """Whether a setting can change the time of the whole loss in this dtype, layout and mode."""
    if setting in ("vector_bytes", "prefetch_into_l2"):
        return True
    if ("channels_last" in setting) != (layout == "nhwc"):
        return False
    if setting.startswith("non_temporal"):
        return mode == "both" and f"_{dtype}" in setting
    only = {
        "prefetch_loss": "both",
        "loss_row": "both",
        "prefetch_single": "forward",
        "prefetch_mask_channels_last": "both",
    }
    return only.get(setting, mode) == mode


def turns(calls: dict[str, Callable], rounds: int, **settings: int) -> dict[str, list[float]]:
    """Seconds of each call in each round. A round that only warms up comes first.

    The call named "other" runs with other settings.
    """
    now, seconds = clock("cpu"), {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            with cpu_settings.changed(**settings) if name == "other" else contextlib.nullcontext():
                elapsed = timed(now, call)
            if round_ > 0:
                seconds[name].append(elapsed)
    return seconds


def median_ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def roofs() -> dict[str, tuple[Callable, int]]:
    """Reads and copies of buffers much larger than the caches, each with the bytes that it moves.

    "copy" is the faster kind of copy.
    """
    size = BUFFER["cpu"]
    copier, columns = Copier("cpu"), size // 4 // 1024
    source, target = torch.ones(1024, columns), torch.zeros(1024, columns)
    made: dict[str, tuple[Callable, int]] = {
        "read": (source.sum, size),
        "copy": (copier.run, copier.bytes_moved),
        "copy, plain stores": (copier.ways["copy"], copier.bytes_moved),
        "copy, non-temporal stores": (copier.ways["memcpy"], copier.bytes_moved),
    }
    for length in (8192, 1024):
        reads, writes = source.split(length, dim=1), target.split(length, dim=1)
        made[f"read, tiles with rows of {length}"] = (
            lambda reads=reads: [tile.sum() for tile in reads],
            size,
        )
        pairs = list(zip(writes, reads, strict=True))
        made[f"copy, tiles with rows of {length}"] = (
            lambda pairs=pairs: [a.copy_(b) for a, b in pairs],
            2 * size,
        )
    return made


def arithmetic_seconds(op: str, mode: str, dtype: str, layout: str, rounds: int) -> float:
    """Seconds that the pass would take in all threads if its data were in a cache."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        per_logit = cached_seconds(op, mode, dtype, layout, calls=50 * rounds)
    finally:
        torch.set_num_threads(threads)
    return per_logit * WORKLOADS[WORKLOAD].logit_elements / threads


def passes_table(rounds: int) -> Iterator[str]:
    """Every pass against the roofs, in turns with them."""
    bandwidth = roofs()
    yield "| pass | | ms | GB/s | share of the roof | arithmetic alone, ms | share of the bound |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    measured: dict[str, list[float]] = {name: [] for name in bandwidth}
    for (name, (op, mode, roof)), (dtype, layout) in itertools.product(PASSES.items(), KINDS):
        case = Case(op, mode, WORKLOAD, 1, dtype, layout)
        calls = {"pass": operator_call(case)} | {name: call for name, (call, _) in bandwidth.items()}
        seconds = turns(calls, rounds)
        rates = {other: [bandwidth[other][1] / s / 1e9 for s in seconds[other]] for other in bandwidth}
        for other, values in rates.items():
            measured[other] += values
        time = statistics.median(seconds["pass"])
        rate = [case.bytes_moved / s / 1e9 for s in seconds["pass"]]
        arithmetic = arithmetic_seconds(op, mode, dtype, layout, rounds)
        of_roof, of_arithmetic = median_ratio(rate, rates[roof]), arithmetic / time
        bound = roof if of_roof > of_arithmetic else "arithmetic"
        cells = (
            name,
            f"{dtype} {NAMES[layout]}",
            f"{time * 1e3:.2f}",
            f"{statistics.median(rate):.1f}",
            f"{of_roof:.0%} of {roof}",
            f"{arithmetic * 1e3:.2f}",
            f"{max(of_roof, of_arithmetic):.0%} of {bound}",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield "| roof | GB/s |"
    yield "|---|---:|"
    yield from (f"| {name} | {statistics.median(values):.1f} |" for name, values in measured.items())


def settings_table(rounds: int) -> Iterator[str]:
    """Time of the whole loss with another value of one setting, divided by the time with the present one."""
    calls = {
        (*kind, mode): operator_call(Case("loss", mode, WORKLOAD, 1, *kind))
        for kind in KINDS
        for mode in ("both", "forward")
    }
    yield "| setting | value | " + " | ".join(f"{dtype} {NAMES[layout]}" for dtype, layout in KINDS) + " |"
    yield "|---|---:|" + "---:|" * len(KINDS)
    for name, setting in cpu_settings.settings().items():
        for value in ALTERNATIVES.get(name, ()):
            if value == setting.value or not _reachable(name, value):
                continue
            cells = []
            for kind in KINDS:
                ratios = []
                for mode in ("both", "forward"):
                    if not plays_a_part(name, *kind, mode):
                        ratios.append("-")
                        continue
                    call = calls[(*kind, mode)]
                    seconds = turns({"present": call, "other": call}, rounds, **{name: value})
                    ratios.append(f"{median_ratio(seconds['other'], seconds['present']):.2f}")
                cells.append(" / ".join(ratios))
            yield f"| {name} | {setting.value} -> {value} | " + " | ".join(cells) + " |"


def _reachable(name: str, value: int) -> bool:
    """Whether the machine has vectors of this width."""
    if name != "vector_bytes":
        return True
    present = cpu_settings.instruction_set()
    with cpu_settings.changed(vector_bytes=value):
        return cpu_settings.instruction_set() != present


def page(rounds: int) -> Iterator[str]:
    """The lines of the page, as they are measured."""
    memory.keep_freed_memory()  # so that "arithmetic alone" has no page faults
    info = machine.describe("cpu")
    yield from (
        f"# {info['name']}: the CPU kernels, their roofs and settings",
        "",
        "Written by `python -m benchmarks.tune_cpu`. [Performance](../performance.md) explains the passes.",
        "",
        f"{info['cores']} cores, {info['threads']} threads, {cpu_settings.instruction_set()}, settings of "
        f"{cpu_settings.processor()}, torch {info['torch']}.",
        f"Kernel sources {sources.digests('cpu')['native-cpu']}, {rounds} rounds.",
        "",
        "## Passes and roofs",
        "",
        "GB/s: the least number of bytes that has to move, divided by the time. The roof of a pass: the rate",
        "of reading, or of copying where it writes gradients. Arithmetic alone: the time of the same work",
        "with data in the cache. The bound is the roof or the arithmetic, whichever takes longer.",
        "",
    )
    yield from passes_table(rounds)
    yield from (
        "",
        "## Settings",
        "",
        "Time of the whole loss with another value, divided by that with the value of this machine's row:",
        "with gradients / without. A dash: the setting plays no part. Below 1, the other value is faster.",
        "",
    )
    yield from settings_table(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each comparison (default: 15)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the page is written")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    lines = []
    try:
        for line in page(options.rounds):
            print(line, file=sys.stderr, flush=True)
            lines.append(line + "\n")
    except RuntimeError as error:
        parser.error(str(error))
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / f"{machine.slug('cpu').removeprefix('cpu-')}.md"
    file.write_text("".join(lines))
    print(file)


if __name__ == "__main__":
    main()
