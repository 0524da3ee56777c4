"""What aot.py compiles: every kernel in the variants that training runs, with the types of its arguments."""

from dataclasses import dataclass, replace

import torch
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from . import kl_plan, level_table, plan, reduce, scale
from .kl import kl_kernel
from .kl_tiles import BINS_CONTIGUOUS, KL_COLUMNS, MIXED, ROWS_CONTIGUOUS, KLConfig
from .launcher import THREADS
from .loss import loss_kernel, single_kernel
from .mask import SUM_COLUMNS, mask_kernel, mask_sums_kernel
from .reduce import factors_kernel, finish_kernel, image_losses_kernel
from .scale import scale_kernel
from .tiles import CHANNEL_MAJOR, LOCATION_MAJOR, MIXED_LAYOUTS, TileConfig

LEVELS = 5  # of a feature pyramid
_BOUNDS = ("i64",) * (2 * LEVELS + 1)
_TORCH_DTYPES = {tl_dtype: dtype for dtype, tl_dtype in plan.TL_DTYPES.items()}
_SCALARS = {
    f"{name}_{part}": "fp32" for name in ("z_value", "feat_scale", "head_scale") for part in ("high", "low")
} | dict.fromkeys(("z_value_tensor", "feat_scale_tensor", "head_scale_tensor"))


@dataclass(frozen=True)
class Variant:
    """One kernel as it is compiled for one kind of inputs."""

    name: str
    kernel: JITFunction
    arguments: dict  # name -> type of a run-time argument, or value of a constant
    # Bytes of features and logits that a thread loads and stores per iteration, where all levels are aligned.
    loaded: int = 0
    stored: int = 0
    threads: int = THREADS
    max_registers: int | None = None  # per thread

    def on(self, target: GPUTarget) -> "Variant":
        """The variant as plan.py makes it for this GPU: AMD's have no pipeline and no register limit."""
        if target.backend != "hip":
            return self
        arguments = {name: _unpipelined(value) for name, value in self.arguments.items()}
        return replace(self, arguments=arguments, max_registers=None)

    @property
    def vectorized_bytes(self) -> int:
        """Bytes of all 16-byte accesses in the code, in which each stage of a pipeline has its own loads."""
        configs = [value for value in self.arguments.values() if isinstance(value, TileConfig)]
        return self.loaded * max(config.STAGES for config in configs) + self.stored if self.loaded else 0


def _unpipelined(value):
    return value._replace(STAGES=1) if isinstance(value, TileConfig) else value


def tile_config(layout, dtype, block: plan.BlockShape, **options) -> TileConfig:
    acc = tl.float64 if dtype == tl.float64 else tl.float32
    values = {
        "LEVELS": LEVELS, "LAYOUT": layout.value, "ALL_ALIGNED": True, "VEC": 128 // dtype.primitive_bitwidth,
        "BLOCK_C": block.channels, "UNALIGNED_BLOCK_C": max(1, block.channels // 4),
        "BLOCK_L": block.locations,
        "STUDENT_DTYPE": dtype, "TEACHER_DTYPE": dtype, "ACC": acc, "INDEX": tl.int32,
        "HAS_CHANNEL_WEIGHT": False, "BETA": 0.0, "HAS_GRAD": True,
    }  # fmt: skip
    values.update(options)
    stages = plan.loss_stages(layout.value, _TORCH_DTYPES[dtype], values["HAS_GRAD"])
    return TileConfig(**{"STAGES": stages, **values})


def variants() -> list[Variant]:
    """The kernels as a RetinaNet (K = 720) compiles them, in all their variants."""
    half, single = (tl.bfloat16, torch.float32), (tl.float32, torch.float32)
    common = [(layout, *dtypes) for dtypes in (half, single) for layout in (LOCATION_MAJOR, CHANNEL_MAJOR)]
    return [
        *(make(*inputs) for inputs in common for make in (_mask, _loss)),
        _single(LOCATION_MAJOR, *half),
        _single(CHANNEL_MAJOR, *half),
        _single(LOCATION_MAJOR, *single),
        _loss(LOCATION_MAJOR, *half, ALL_ALIGNED=False),
        _loss(CHANNEL_MAJOR, *half, HAS_GRAD=False),
        *(
            _loss(layout, *single, ALL_ALIGNED=False)
            for layout in (LOCATION_MAJOR, CHANNEL_MAJOR, MIXED_LAYOUTS)
        ),
        *(_loss(CHANNEL_MAJOR, *half, BETA=beta) for beta in (1.0, 1.5, 2.0)),
        _loss(LOCATION_MAJOR, *half, HAS_CHANNEL_WEIGHT=True),
        _loss(LOCATION_MAJOR, *half, INDEX=tl.int64),
        _loss(LOCATION_MAJOR, tl.float16, torch.float32),
        _loss(LOCATION_MAJOR, *half, TEACHER_DTYPE=tl.float32),
        _mask(LOCATION_MAJOR, *half, ALL_ALIGNED=False),
        _mask(MIXED_LAYOUTS, *half, ALL_ALIGNED=False),
        _loss(LOCATION_MAJOR, tl.float64, torch.float64),
        _mask(CHANNEL_MAJOR, tl.float64, torch.float64),
        *_small_kernels(tl.float32),
        *_small_kernels(tl.float64),
        *_kl_variants(),
    ]


_LAYOUTS = {LOCATION_MAJOR: "location-major", CHANNEL_MAJOR: "channel-major", MIXED_LAYOUTS: "mixed layouts"}


def _label(kernel: str, layout: str, dtype, options: dict) -> str:
    notes = {
        "ALL_ALIGNED": "some levels unaligned",
        "HAS_GRAD": "no gradients",
        "HAS_CHANNEL_WEIGHT": "channel weights",
        "HAS_WEIGHT": "no weights",
        "BETA": f"beta {options.get('BETA')}",
        "INDEX": f"offsets {options.get('INDEX')}",
        "TEACHER_DTYPE": f"teacher {options.get('TEACHER_DTYPE')}",
    }
    return ", ".join([f"{kernel} {dtype}", layout, *(notes[name] for name in options)])


def _bytes(block: plan.BlockShape, *dtypes) -> int:
    """Bytes of a block per thread, in these dtypes."""
    elements = block.channels * block.locations
    return sum(elements * dtype.primitive_bitwidth // 8 for dtype in dtypes) // THREADS


def _table(columns) -> tuple[str, ...]:
    return ("i64",) * (LEVELS * columns.value)


def _mask(layout, dtype, acc, **options) -> Variant:
    block = plan.mask_block(layout.value, 720, _TORCH_DTYPES[dtype])
    config = tile_config(layout, dtype, block, **plan.mask_options(layout.value, block), **options)
    arguments = {"table": _table(level_table.COLUMNS), "mask_sums": _pointer(acc), "config": config}
    loaded = _bytes(block, dtype) * config.ALL_ALIGNED
    return Variant(_label("mask", _LAYOUTS[layout], dtype, options), mask_kernel, arguments, loaded)


def _loss(layout, dtype, acc, **options) -> Variant:
    block = plan.loss_block(layout.value, 720, _TORCH_DTYPES[dtype])
    config = tile_config(layout, dtype, block, **options)
    table = _table(level_table.COLUMNS)
    arguments = {
        "head_table": table, "feat_table": table, "bounds": _BOUNDS, "counters": "*i32",
        **dict.fromkeys(("factors", "partials", "level_losses", "losses"), _pointer(acc)),
        **dict.fromkeys(("head_tiles", "feat_tiles", "head_channel_blocks", "feat_channel_blocks"), "i32"),
        "head_config": config._replace(HAS_CHANNEL_WEIGHT=False), "feat_config": config._replace(BETA=0.0),
        "ACC": config.ACC,
    }  # fmt: skip
    loaded = 2 * _bytes(block, config.STUDENT_DTYPE, config.TEACHER_DTYPE) * config.ALL_ALIGNED
    stored = 2 * _bytes(block, config.STUDENT_DTYPE) * config.HAS_GRAD
    limit = plan.max_loss_registers(arguments["head_config"], arguments["feat_config"])
    label = _label("loss", _LAYOUTS[layout], dtype, options)
    return Variant(label, loss_kernel, arguments, loaded, stored, max_registers=limit)


def _single(layout, dtype, acc, **options) -> Variant:
    block = plan.single_pass_block([layout.value], acc)
    config = tile_config(layout, dtype, block, HAS_GRAD=False, **options)
    table = _table(level_table.COLUMNS)
    arguments = {
        "head_table": table, "feat_table": table,
        **dict.fromkeys(("mask_sums", "feat_sums", "head_sums"), _pointer(acc)),
        "head_config": config, "feat_config": config, "HAS_HEAD": True,
    }  # fmt: skip
    label = _label("single pass", _LAYOUTS[layout], dtype, options)
    return Variant(label, single_kernel, arguments, 2 * _bytes(block, dtype, dtype))


def _small_kernels(acc) -> list[Variant]:
    """The kernels that read neither features nor logits."""
    pointer = f"*{'fp64' if acc == tl.float64 else 'fp32'}"
    constants = {"LEVELS": LEVELS, "ACC": acc}
    reduced = {
        "table": _table(reduce.FACTOR_COLUMNS), "NORMALIZER": 0, **constants, **_SCALARS,
        **dict.fromkeys(("mask_sums", "level_losses", "losses", "pending", "factors"), pointer),
    }  # fmt: skip
    factors = {"counters": "*i32", "FEAT_PENDING": False, "HEAD_PENDING": False}
    sums = dict.fromkeys(("feat_sums", "head_sums"), pointer)
    of_images = {"bounds": _BOUNDS, **dict.fromkeys(("sums", "factors", "losses"), pointer)}
    scale_arguments = {
        "table": _table(scale.COLUMNS), "grad_output": pointer, "pending": pointer, "blocks": "i32",
        "GRADS": LEVELS, "NUM_PENDING": LEVELS, "ALIGNED": True, "ACC": acc,
    }  # fmt: skip
    scaled = tl.float64 if acc == tl.float64 else tl.bfloat16
    return [
        Variant(f"factors {acc}", factors_kernel, reduced | factors, threads=reduce.THREADS),
        Variant(
            f"finish {acc}", finish_kernel, reduced | sums | {"factors": None}, threads=reduce.THREADS
        ),
        Variant(f"finish per image {acc}", finish_kernel, reduced | sums, threads=reduce.THREADS),
        Variant(f"image losses {acc}", image_losses_kernel, of_images | constants),
        Variant(
            f"mask sums {acc}", mask_sums_kernel,
            {"table": _table(SUM_COLUMNS), "mask_sums": pointer, **constants},
        ),
        *(
            Variant(
                f"scale{' per image' * per_image} {scaled}", scale_kernel,
                scale_arguments | {"DTYPE": scaled, "PER_IMAGE": per_image},
            )
            for per_image in (False, True)
        ),
    ]  # fmt: skip


def _pointer(acc: torch.dtype) -> str:
    return "*fp64" if acc == torch.float64 else "*fp32"


def _kl_variants() -> list[Variant]:
    """kl for LD (17 bins an edge of a box), classes of a head (80, 720) and CWD (locations of a level)."""
    over_channels = [
        (bins, order) for bins in (17, 80, 192, 720) for order in (ROWS_CONTIGUOUS, BINS_CONTIGUOUS)
    ]
    over_locations = [
        (4096, BINS_CONTIGUOUS),
        (12288, BINS_CONTIGUOUS),
        (16800, BINS_CONTIGUOUS),
        (16800, ROWS_CONTIGUOUS),
    ]
    return [
        *(
            _kl(*case, dtype)
            for case in (*over_channels, *over_locations)
            for dtype in (tl.bfloat16, tl.float32)
        ),
        _kl(17, MIXED, tl.float32),
        _kl(17, ROWS_CONTIGUOUS, tl.float16),
        _kl(17, ROWS_CONTIGUOUS, tl.float64),
        _kl(16800, BINS_CONTIGUOUS, tl.float64),
        _kl(17, ROWS_CONTIGUOUS, tl.bfloat16, HAS_GRAD=False),
        _kl(16800, BINS_CONTIGUOUS, tl.bfloat16, HAS_GRAD=False),
        _kl(17, ROWS_CONTIGUOUS, tl.bfloat16, HAS_WEIGHT=False),
        _kl(17, ROWS_CONTIGUOUS, tl.bfloat16, TEACHER_DTYPE=tl.float32),
        _kl(17, ROWS_CONTIGUOUS, tl.bfloat16, INDEX=tl.int64),
    ]


def _kl(bins: int, order, dtype, **options) -> Variant:
    acc = torch.float64 if dtype == tl.float64 else torch.float32
    block = kl_plan.kl_block(bins, order.value, acc)
    values = {
        "LEVELS": LEVELS, "ORDER": order.value, "RESIDENT": block.resident,
        "EXACT": block.resident and bins == block.parts * block.bins,
        "PARTS": block.parts, "BLOCK_BINS": block.bins, "BLOCK_ROWS": block.rows,
        "STUDENT_DTYPE": dtype, "TEACHER_DTYPE": dtype, "ACC": plan.TL_DTYPES[acc], "INDEX": tl.int32,
        "HAS_WEIGHT": True, "HAS_GRAD": True,
    }  # fmt: skip
    config = KLConfig(**{**values, **options})
    arguments = {
        "table": _table(KL_COLUMNS), "bounds": _BOUNDS, "counters": "*i32",
        **dict.fromkeys(("factors", "partials", "level_losses", "losses"), _pointer(acc)),
        **dict.fromkeys(("tiles", "row_blocks"), "i32"),
        **dict.fromkeys(("per_tau_high", "per_tau_low", "tau_high", "tau_low"), "fp32"),
        "config": config,
    }  # fmt: skip
    names = {BINS_CONTIGUOUS: "bins contiguous", ROWS_CONTIGUOUS: "rows contiguous", MIXED: "mixed layouts"}
    label = _label(f"kl {bins} bins", f"{names[order]}, {block.threads} threads", dtype, options)
    limit = kl_plan.max_kl_registers(config, block.threads)
    return Variant(label, kl_kernel, arguments, threads=block.threads, max_registers=limit)
