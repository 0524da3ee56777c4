"""Compiles every kernel ahead of time for several GPUs and prints registers and spills; needs no GPU.

    python -m frs_kernels.backends.triton.aot > docs/triton-resources.md

Tests also count the global memory accesses of the compiled kernels by their width.
"""

# A compiler's report without one of these numbers ends in an error, as it should.
# pyright: reportOptionalSubscript=false

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import reduce
from .aot_variants import LEVELS, Variant, variants
from .launcher import THREADS

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


def compiled(variant: Variant, target: GPUTarget):
    """The kernel compiled for a target, as :func:`triton.compile` returns it."""
    variant = variant.on(target)
    signature, constants = {}, {}
    for position, name in enumerate(variant.kernel.arg_names):
        value = variant.arguments[name]
        if isinstance(value, str) or (isinstance(value, tuple) and not hasattr(value, "_fields")):
            signature[name] = value
        else:
            signature[name] = "constexpr"
            constants[(position,)] = value
    options = {"num_warps": variant.threads // target.warp_size}
    if variant.max_registers:
        options["maxnreg"] = variant.max_registers
    return triton.compile(ASTSource(variant.kernel, signature, constants), target=target, options=options)


def resources(kernel) -> tuple[int, int]:
    """(registers per thread, bytes that a thread spills to memory)"""
    if "amdgcn" in kernel.asm:
        text = kernel.asm["amdgcn"]
        # The compiler may reserve a stack and then spill scalar registers to lanes of vector registers
        # instead.
        used = re.search(r"\bscratch_(?:load|store)", text)
        stack = int(re.search(r"\.private_segment_fixed_size:\s*(\d+)", text)[1])
        return int(re.search(r"\.vgpr_count:\s*(\d+)", text)[1]), stack if used else 0
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        report = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    usage = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", report.stdout)
    return int(usage[1]), int(usage[2]) + int(usage[3])


def accesses(kernel) -> dict[int, int]:
    """Loads and stores of global memory in a thread's code: width in bytes -> how many."""
    counts: dict[int, int] = {}
    if "amdgcn" in kernel.asm:
        bytes_of = {
            "ubyte": 1,
            "byte": 1,
            "ushort": 2,
            "short": 2,
            "dword": 4,
            "dwordx2": 8,
            "dwordx3": 12,
            "dwordx4": 16,
        }
        pattern = r"(?:global|buffer)_(?:load|store)_(?:d16_)?(?:b16_)?(\w+?)(?:_d16(?:_hi)?)?\s"
        widths = [bytes_of.get(width, 0) for width in re.findall(pattern, kernel.asm["amdgcn"])]
    else:
        pattern = r"(?:ld|st)\.global[\w.:]*?(?:\.v(\d))?\.b(\d+)\s"
        plain = re.findall(pattern, kernel.asm["ptx"])
        async_copies = re.findall(r"cp\.async\.\w+\.shared\.global[^,]*,[^,]*, (\w+)", kernel.asm["ptx"])
        widths = [int(vector or 1) * int(bits) // 8 for vector, bits in plain]
        widths += [int(width, 0) for width in async_copies]
    for width in widths:
        counts[width] = counts.get(width, 0) + 1
    return counts


def main() -> None:
    print("# Resources of the Triton kernels\n")
    print(f"Compiled ahead of time by Triton {triton.__version__} for {LEVELS} levels, written by")
    print(f"`python -m frs_kernels.backends.triton.aot`. A program has {THREADS} threads, in factors and")
    print(f"finish {reduce.THREADS}, in kl as many as its row says. A cell has the registers per thread")
    print("(gfx942: vector registers) and the bytes spilled.\n")
    print("| kernel | " + " | ".join(TARGETS) + " |")
    print("|---" * (len(TARGETS) + 1) + "|")
    for variant in variants():
        cells = []
        for target in TARGETS.values():
            registers, spilled = resources(compiled(variant, target))
            cells.append(f"{registers} / {spilled}")
        print(f"| {variant.name} | " + " | ".join(cells) + " |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
