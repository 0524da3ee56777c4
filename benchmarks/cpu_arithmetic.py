"""A benchmark of the arithmetic of the CPU kernels, with all data in the L2 cache.

python -m benchmarks.cpu_arithmetic > docs/cpu-arithmetic.md

It times the head term with gradient on one thread, for each instruction set that this machine runs: in
nanoseconds per eight elements, and as a share of the floating-point rate of NumPy's matrix product (OpenBLAS)
with the same instruction set, which comes close to the peak of the core. Run it on an idle machine.
"""

import itertools
import os
import platform
import subprocess
import sys

import numpy as np
import torch

from benchmarks import machine, sources
from benchmarks.cpu_calls import cached_seconds
from benchmarks.timers import clock, timed
from benchmarks.workloads import LAYOUTS
from frs_kernels import library

# Per element (docs/performance.md): 15 fused multiply-adds, 12 additions, products and maxima, 1 division.
FLOPS, DTYPES = 43, ("fp32", "bf16")
ROUNDS = 2000
# OpenBLAS's kernels of each instruction set by their names there; on other architectures OpenBLAS picks them.
X86_64 = {"default": "Nehalem", "avx2": "Haswell", "avx512": "SkylakeX"}
CORES = X86_64 if platform.machine() == "x86_64" else {}


def matrix_product_rate() -> float:
    """GFLOP/s of a float32 matrix product on this thread."""
    size = 2048
    a, b = np.random.default_rng(0).random((2, size, size), dtype=np.float32)
    return 2 * size**3 / min(timed(clock("cpu"), lambda: a @ b) for _ in range(10)) / 1e9


def nanoseconds(dtype: str, layout: str) -> float:
    """The time of the head term with gradient per element."""
    return 1e9 * cached_seconds("head", "both", dtype, layout, ROUNDS)


def row() -> str:
    """One row of the table: ns per eight elements, and the share of the matrix product's rate."""
    reason = library.load_native("cpu")
    assert reason is None, reason
    torch.set_num_threads(1)
    times = {kind: nanoseconds(*kind) for kind in itertools.product(DTYPES, LAYOUTS)}
    peak = matrix_product_rate()
    shares = [max(FLOPS / t for (d, _), t in times.items() if d == dtype) / peak for dtype in DTYPES]
    return " | ".join([*(f"{8 * t:.1f}" for t in times.values()), *(f"{share:.0%}" for share in shares)])


def main() -> None:
    if len(sys.argv) > 1:
        print(row())
        return
    from frs_kernels import _host

    info = machine.describe("cpu")
    print("# Arithmetic of the CPU kernels\n")
    print("Nanoseconds per 8 elements of the head term with gradient, on one thread, data in the L2 cache.")
    print(f"The rate, at {FLOPS} floating-point operations per element and in the faster layout of a dtype,")
    print("is a share of that of NumPy's float32 matrix product with the same instruction set.")
    print("Written by `python -m benchmarks.cpu_arithmetic`.\n")
    print(f"{info['cpu']}, torch {info['torch']}, kernel sources {sources.digests('cpu')['native-cpu']}\n")
    print("| | fp32 NCHW | fp32 channels_last | bf16 NCHW | bf16 channels_last | rate, fp32 | rate, bf16 |")
    print("|---|---|---|---|---|---|---|")
    for isa in _host.instruction_sets():
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": isa, "OPENBLAS_NUM_THREADS": "1"}
        environment |= {"OPENBLAS_CORETYPE": CORES[isa]} if isa in CORES else {}
        command = [sys.executable, "-m", "benchmarks.cpu_arithmetic", "row"]
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        print(f"| {isa} | {output.strip()} |", flush=True)


if __name__ == "__main__":
    main()
