"""How fast the CPU kernels calculate, with no memory in the way.

python -m benchmarks.cpu_arithmetic > docs/cpu-arithmetic.md

The head term with gradient on one thread, on tensors that stay in the second cache, for each instruction set
that runs here: nanoseconds for eight elements, and the best rate in floating-point operations beside that of
NumPy's matrix product (OpenBLAS) with the same instruction set, which is the peak as far as it can be
reached. Run it on an idle machine.
"""

import itertools
import os
import platform
import subprocess
import sys

import numpy as np
import torch

from benchmarks import machine, sources
from benchmarks.timers import clock, timed
from frs_kernels import library

# Of an element, docs/performance.md: 15 fused multiply-adds, 12 sums, products and maxima, 1 division.
FLOPS, DTYPES = 43, (torch.float32, torch.bfloat16)
SHAPES = {False: (1, 128, 16, 32), True: (1, 720, 8, 12)}  # NCHW and channels_last: rows long enough
ROUNDS = 2000
# What OpenBLAS calls its kernels for an instruction set; elsewhere it picks them itself.
X86_64 = {"default": "Nehalem", "avx2": "Haswell", "avx512": "SkylakeX"}
CORES = X86_64 if platform.machine() == "x86_64" else {}


def rate_of_products() -> float:
    """GFLOP/s of a matrix product on this thread."""
    size = 2048
    a, b = np.random.default_rng(0).random((2, size, size), dtype=np.float32)
    return 2 * size**3 / min(timed(clock("cpu"), lambda: a @ b) for _ in range(10)) / 1e9


def nanoseconds(dtype: torch.dtype, channels_last: bool) -> float:
    """The shortest time of the operator for an element, without the overhead of a call."""
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def best(shape):
        student, teacher = (torch.randn(shape).to(dtype).to(memory_format=layout) for _ in range(2))
        arguments = ([], [], [student], [teacher], [torch.rand(shape[0], *shape[2:])], [])
        scalars = (0, 1.0, None, 1.0, None, 1.0, None, 0.0, False, True)
        return min(
            timed(clock("cpu"), lambda: torch.ops.frs_kernels.loss(*arguments, *scalars))
            for _ in range(ROUNDS)
        )

    shape = SHAPES[channels_last]
    return (best(shape) - best((1, 1, 1, 1))) / torch.Size(shape).numel() * 1e9


def row() -> str:
    """One line of the table: ns for eight elements, and the best share of the matrix product's rate."""
    reason = library.load_native("cpu")
    assert reason is None, reason
    torch.set_num_threads(1)
    times = {kind: nanoseconds(*kind) for kind in itertools.product(DTYPES, (False, True))}
    peak = rate_of_products()
    shares = [max(FLOPS / t for (d, _), t in times.items() if d == dtype) / peak for dtype in DTYPES]
    return " | ".join([*(f"{8 * t:.1f}" for t in times.values()), *(f"{share:.0%}" for share in shares)])


def main() -> None:
    if len(sys.argv) > 1:
        print(row())
        return
    from frs_kernels import _host

    info = machine.describe("cpu")
    print("# Arithmetic of the CPU kernels\n")
    print("Nanoseconds for 8 elements of the head term with gradient, data in the second cache, one thread;")
    print(f"and the better rate of each type, at {FLOPS} operations an element,")
    print("beside that of NumPy's matrix product. Written by `python -m benchmarks.cpu_arithmetic`.\n")
    print(f"{info['cpu']}, torch {info['torch']}, kernel sources {sources.digests('cpu')['native-cpu']}\n")
    print("| | fp32 NCHW | fp32 channels_last | bf16 NCHW | bf16 channels_last | rate, fp32 | rate, bf16 |")
    print("|---|---|---|---|---|---|---|")
    for isa in _host.instruction_sets():
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": isa, "OPENBLAS_NUM_THREADS": "1"}
        environment |= {"OPENBLAS_CORETYPE": CORES[isa]} if isa in CORES else {}
        command = [sys.executable, "-m", "benchmarks.cpu_arithmetic", "row"]
        found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        print(f"| {isa} | {found.strip()} |", flush=True)


if __name__ == "__main__":
    main()
