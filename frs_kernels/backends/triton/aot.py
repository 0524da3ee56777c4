"""Every kernel compiled for a GPU that need not be there: registers, spills and widths of memory accesses.

python -m frs_kernels.backends.triton.aot > docs/triton-resources.md
"""

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from frs_kernels.backends.triton import plan, reduce
from frs_kernels.backends.triton.launch import THREADS
from frs_kernels.backends.triton.loss import loss_kernel, single_kernel
from frs_kernels.backends.triton.mask import mask_kernel, weight_sums
from frs_kernels.backends.triton.reduce import COLUMNS, factors_kernel, finish_kernel
from frs_kernels.backends.triton.scale import scale_kernel
from frs_kernels.backends.triton.tiles import CHANNEL, LOCATION, MIXED, WIDTH, Term

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
ROWS = 5  # levels of a feature pyramid
_TORCH = {dtype: name for name, dtype in plan.DTYPES.items()}
_NUMBERS = {
    f"{name}_{part}": "fp32" for name in ("value", "feat", "head") for part in ("high", "low")
} | dict.fromkeys(("value_tensor", "feat_tensor", "head_tensor"))


@dataclass(frozen=True)
class Variant:
    """One kernel as it is compiled for some kind of input."""

    name: str
    kernel: object
    arguments: dict  # a type for what is passed at run time, a value for what is compiled in
    # Bytes of large tensors that a thread moves per iteration, where all is aligned.
    loaded: int = 0
    stored: int = 0
    threads: int = THREADS
    registers: int | None = None  # the most that a thread may have

    def on(self, target: GPUTarget) -> "Variant":
        """The variant as plan.py has it for such a GPU: on AMD's without a pipeline or a limit."""
        if target.backend != "hip":
            return self
        arguments = {k: _unpipelined(v) for k, v in self.arguments.items()}
        return replace(self, arguments=arguments, registers=None)

    @property
    def wide_bytes(self) -> int:
        """Bytes of the accesses to large tensors in the code, which loads each stage of a pipeline once."""
        terms = [value for value in self.arguments.values() if isinstance(value, Term)]
        return self.loaded * max(term.STAGES for term in terms) + self.stored if self.loaded else 0


def _unpipelined(value):
    return value._replace(STAGES=1) if isinstance(value, Term) else value


def term(order, dtype, shape: plan.Shape, **changes) -> Term:
    acc = tl.float64 if dtype == tl.float64 else tl.float32
    values = {
        "ROWS": ROWS, "LAYOUT": order.value, "ALL_ALIGNED": True, "VEC": 128 // dtype.primitive_bitwidth,
        "BC": shape.BC, "NARROW_BC": max(1, shape.BC // 4), "BL": shape.BL,
        "STUDENT": dtype, "TEACHER": dtype, "ACC": acc, "INDEX": tl.int32,
        "CHANNEL_WEIGHTS": False, "BETA": 0.0, "GRAD": True,
    }  # fmt: skip
    values.update(changes)
    return Term(**{"STAGES": plan.stages(order.value, _TORCH[dtype], values["GRAD"]), **values})


def variants() -> list[Variant]:
    """The kernels as a RetinaNet (K = 720) compiles them, in all their variants."""
    half, single = (tl.bfloat16, torch.float32), (tl.float32, torch.float32)
    kinds = [(LOCATION, *half), (CHANNEL, *half), (LOCATION, *single), (CHANNEL, *single)]
    found = [make(*kind) for kind in kinds for make in (_mask, _loss)]
    found += [_single(LOCATION, *half), _single(CHANNEL, *half), _single(LOCATION, *single)]
    found += [_loss(LOCATION, *half, ALL_ALIGNED=False), _loss(CHANNEL, *half, GRAD=False)]
    found += [_loss(order, *single, ALL_ALIGNED=False) for order in (LOCATION, CHANNEL, MIXED)]
    found += [_loss(CHANNEL, *half, BETA=beta) for beta in (1.0, 1.5, 2.0)]
    found += [_loss(LOCATION, *half, CHANNEL_WEIGHTS=True), _loss(LOCATION, *half, INDEX=tl.int64)]
    found += [_loss(LOCATION, tl.float16, torch.float32), _loss(LOCATION, *half, TEACHER=tl.float32)]
    found += [_mask(LOCATION, *half, ALL_ALIGNED=False), _mask(MIXED, *half, ALL_ALIGNED=False)]
    found += [_loss(LOCATION, tl.float64, torch.float64), _mask(CHANNEL, tl.float64, torch.float64)]
    return found + _small(tl.float32) + _small(tl.float64)


def _label(kind: str, order, dtype, changes: dict) -> str:
    layout = {0: "location-major", 1: "channel-major", 2: "mixed layouts"}[order.value]
    notes = [
        "some levels unaligned" if name == "ALL_ALIGNED" else f"{name}={value}"
        for name, value in changes.items()
    ]
    return ", ".join([f"{kind} {dtype}", layout, *notes])


def _bytes(tile: plan.Shape, *dtypes) -> int:
    return sum(tile.BC * tile.BL * dtype.primitive_bitwidth // 8 for dtype in dtypes) // THREADS


def _table(width) -> tuple[str, ...]:
    return ("i64",) * (ROWS * width.value)


def _mask(order, dtype, acc, **changes) -> Variant:
    tile = plan.mask_tile(order.value, 720, _TORCH[dtype])
    compiled = term(order, dtype, tile, **plan.mask_options(order.value, tile), **changes)
    arguments = {"table": _table(WIDTH), "sums": _pointer(acc), "term": compiled}
    loaded = _bytes(tile, dtype) * compiled.ALL_ALIGNED
    return Variant(_label("mask", order, dtype, changes), mask_kernel, arguments, loaded)


def _loss(order, dtype, acc, **changes) -> Variant:
    tile = plan.loss_tile(order.value, 720, _TORCH[dtype])
    compiled = term(order, dtype, tile, **changes)
    arguments = {
        "head_table": _table(WIDTH), "feat_table": _table(WIDTH), "counter": "*i32",
        **dict.fromkeys(("factors", "partials", "losses"), _pointer(acc)),
        **dict.fromkeys(("head_tiles", "feat_tiles", "head_steps", "feat_steps"), "i32"),
        "head_term": compiled._replace(CHANNEL_WEIGHTS=False),
        "feat_term": compiled._replace(BETA=0.0), "ACC": compiled.ACC,
    }  # fmt: skip
    loaded = 2 * _bytes(tile, compiled.STUDENT, compiled.TEACHER) * compiled.ALL_ALIGNED
    stored = 2 * _bytes(tile, compiled.STUDENT) * compiled.GRAD
    limit = plan.loss_registers(arguments["head_term"], arguments["feat_term"])
    label = _label("loss", order, dtype, changes)
    return Variant(label, loss_kernel, arguments, loaded, stored, registers=limit)


def _single(order, dtype, acc, **changes) -> Variant:
    tile = plan.single_tile([order.value], acc)
    compiled = term(order, dtype, tile, GRAD=False, **changes)
    arguments = {
        "head_table": _table(WIDTH), "feat_table": _table(WIDTH),
        **dict.fromkeys(("sums", "errors", "entropies"), _pointer(acc)),
        "head_term": compiled, "feat_term": compiled, "HEAD": True,
    }  # fmt: skip
    return Variant(
        _label("single pass", order, dtype, changes), single_kernel, arguments, 2 * _bytes(tile, dtype, dtype)
    )


def _small(acc) -> list[Variant]:
    """The kernels beside the passes over the large tensors."""
    pointer = f"*{'fp64' if acc == tl.float64 else 'fp32'}"
    common = {
        "table": _table(COLUMNS),
        "sums": pointer,
        "NORMALIZER": 0,
        "ROWS": ROWS,
        "ACC": acc,
        **_NUMBERS,
    }
    outputs = dict.fromkeys(("losses", "pending"), pointer)
    factors = {"factors": pointer, "counter": "*i32", "FEAT_PENDING": False, "HEAD_PENDING": False}
    partials = dict.fromkeys(("errors", "entropies"), pointer)
    scaled = tl.float64 if acc == tl.float64 else tl.bfloat16
    return [
        Variant(f"factors {acc}", factors_kernel, {**common, **outputs, **factors}, threads=reduce.THREADS),
        Variant(f"finish {acc}", finish_kernel, {**common, **outputs, **partials}, threads=reduce.THREADS),
        Variant(
            f"weight sums {acc}", weight_sums,
            {"table": ("i64",) * (3 * ROWS), "sums": pointer, "ROWS": ROWS, "ACC": acc},
        ),
        Variant(
            f"scale {scaled}", scale_kernel,
            {"table": _table(COLUMNS), "factor": pointer, "pending": pointer, "spans": "i32", "ROWS": ROWS,
             "ENTRIES": ROWS, "ALIGNED": True, "DTYPE": scaled, "ACC": acc},
        ),
    ]  # fmt: skip


def _pointer(acc: torch.dtype) -> str:
    return "*fp64" if acc == torch.float64 else "*fp32"


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
    if variant.registers:
        options["maxnreg"] = variant.registers
    return triton.compile(ASTSource(variant.kernel, signature, constants), target=target, options=options)


def resources(kernel) -> tuple[int, int]:
    """(registers a thread, bytes of stack: what was spilled to memory)"""
    if "amdgcn" in kernel.asm:
        text = kernel.asm["amdgcn"]
        # The compiler may set a stack aside and then spill scalar registers to lanes of vector ones instead.
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
    """How many loads and stores of global memory a thread has in the code, by width in bytes."""
    counts: dict[int, int] = {}
    if "amdgcn" in kernel.asm:
        words = {
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
        widths = [words.get(word, 0) for word in re.findall(pattern, kernel.asm["amdgcn"])]
    else:
        pattern = r"(?:ld|st)\.global[\w.:]*?(?:\.v(\d))?\.b(\d+)\s"
        found = re.findall(pattern, kernel.asm["ptx"])
        copies = re.findall(r"cp\.async\.\w+\.shared\.global[^,]*,[^,]*, (\w+)", kernel.asm["ptx"])
        widths = [int(vector or 1) * int(bits) // 8 for vector, bits in found]
        widths += [int(width, 0) for width in copies]
    for width in widths:
        counts[width] = counts.get(width, 0) + 1
    return counts


def main() -> None:
    print("# Resources of the Triton kernels\n")
    print(f"Compiled ahead of time by Triton {triton.__version__} for {ROWS} levels. A program has {THREADS}")
    print(f"threads, {reduce.THREADS} in factors and finish. Written by")
    print("`python -m frs_kernels.backends.triton.aot`.")
    print("In a cell: registers a thread (gfx942: vector registers) / bytes spilled.\n")
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
