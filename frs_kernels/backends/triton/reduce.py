"""The small kernels between and after the passes: normalizers, factors, final losses.

Numbers from the host arrive as two float32 whose sum has 48 bits: enough for float64 inputs, without float64
arithmetic in the kernels of float32 inputs.
"""

import triton
import triton.language as tl

from ...contract import MASK_SUM_NORMALIZERS, NORMALIZER_EPSILON, NORMALIZERS
from .arithmetic import sum_range
from .level_table import level_of_tile, table_entry

# Threads per program. A few programs read thousands of partial sums: they need many loads in flight.
THREADS = 512
_SUM_BLOCK = tl.constexpr(8192)  # partial sums per iteration: 16 loads per thread in flight

# Factors are a tensor [3, 2, levels]. Its first dimension:
LOSS_FACTOR = tl.constexpr(0)  # of the loss: scale / Z_l, or 0 where Z_l is 0
GRAD_FACTOR = tl.constexpr(1)  # of the stored gradient: the same; where it is pending, 1, or 0 where Z_l is 0
NONZERO_Z = tl.constexpr(2)  # 1, or 0 where Z_l is 0
FACTOR_ROWS = 3
# Its second dimension, and the first of the pending factors [2, levels]:
IMITATION, HEAD = (tl.constexpr(i) for i in range(2))

# Columns of the factor table: the range of a level's partial sums of S, and a count for each term, which is
# the normalizer ("batch", "numel") or a factor of it ("mask_channels").
SUM_FIRST, SUM_LAST, FEAT_COUNT, HEAD_COUNT = (tl.constexpr(i) for i in range(4))
FACTOR_COLUMNS = tl.constexpr(4)

_MASK, _MASK_CHANNELS, _MASK_ALL_LEVELS, _VALUE = (
    tl.constexpr(NORMALIZERS.index(name)) for name in (*MASK_SUM_NORMALIZERS, "value")
)
_EPSILON = tl.constexpr(NORMALIZER_EPSILON)
_SCALARS = [
    f"{name}_{part}" for name in ("z_value", "feat_scale", "head_scale") for part in ("high", "low", "tensor")
]


@triton.jit
def scalar(high, low, tensor, ACC: tl.constexpr):
    """A number from the host, high + low, times an optional 0-d tensor on the device."""
    value = tl.cast(high, ACC) + tl.cast(low, ACC)
    if tensor is not None:
        value *= tl.load(tensor)
    return value


@triton.jit
def normalizer(mask_sum, count, value, NORMALIZER: tl.constexpr):
    """Z_l from a sum of S, from a count, or as the caller gave it."""
    if NORMALIZER == _MASK or NORMALIZER == _MASK_ALL_LEVELS:
        z = mask_sum
    elif NORMALIZER == _MASK_CHANNELS:
        z = mask_sum * count + _EPSILON
    elif NORMALIZER == _VALUE:
        z = value
    else:
        z = count
    return z


@triton.jit
def sum_of_masks(
    table, mask_sums, level, NORMALIZER: tl.constexpr, LEVELS: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """The sum of S that is in Z_l, from the partial sums: over the level, or over all levels."""
    if NORMALIZER == _MASK_ALL_LEVELS:
        first = table_entry(table, SUM_FIRST, 0, LEVELS, FACTOR_COLUMNS)
        last = table_entry(table, SUM_LAST, LEVELS - 1, LEVELS, FACTOR_COLUMNS)
    else:
        first = table_entry(table, SUM_FIRST, level, LEVELS, FACTOR_COLUMNS)
        last = table_entry(table, SUM_LAST, level, LEVELS, FACTOR_COLUMNS)
    return sum_range(mask_sums, first, last, ACC, _SUM_BLOCK)


@triton.jit
def term_factor(z, scale):
    """(scale / Z_l, or 0 where Z_l is 0; whether Z_l is not 0)"""
    nonzero_z = z != 0
    return tl.where(nonzero_z, scale / tl.where(nonzero_z, z, 1.0), 0.0), nonzero_z


@triton.jit
def factor_pointer(factors, ROW: tl.constexpr, TERM: tl.constexpr, level, LEVELS: tl.constexpr):
    """Pointer to one of ``factors`` [3, 2, LEVELS]."""
    return factors + ROW * 2 * LEVELS + (TERM * LEVELS + level)


@triton.jit
def store_losses(losses, feature, head, stride=1):
    """losses [3] = (feature, head, feature + head), ``stride`` elements apart"""
    tl.store(losses, feature)
    tl.store(losses + stride, head)
    tl.store(losses + 2 * stride, feature + head)


@triton.jit
def tiles_of_row(bounds, row, LEVELS: tl.constexpr):
    """The tiles [first, last) of row TERM * LEVELS + level, from the table of tile bounds [2 LEVELS + 1]."""
    first = table_entry(bounds, 0, row, 2 * LEVELS, 1)
    return first.to(tl.int32), table_entry(bounds, 1, row, 2 * LEVELS, 1).to(tl.int32)


@triton.jit
def sum_of_levels(level_losses, TERM: tl.constexpr, LEVELS: tl.constexpr):
    """The sum of one row of ``level_losses`` [2, LEVELS]."""
    level = tl.arange(0, triton.next_power_of_2(LEVELS))
    values = tl.load(
        level_losses + (TERM * LEVELS + level), mask=level < LEVELS, other=0.0, cache_modifier=".cg"
    )
    return tl.sum(values, axis=0)


@triton.jit
def add_partial(
    partial, tile, tiles, bounds, partials, counters, level_losses, losses,
    LEVELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Ends one of ``tiles`` programs with its partial loss: stores it, and adds up what is complete.

    ``counters`` [2 LEVELS + 1] has the tiles that are done, of each row of ``level_losses`` and of complete
    rows; 0 at first.
    """
    tl.store(partials + tile, partial)
    row = level_of_tile(bounds, tile, 2 * LEVELS, 1)
    first, last = tiles_of_row(bounds, row, LEVELS)
    tl.debug_barrier()
    done_before = tl.atomic_add(counters + row, 1, sem="acq_rel")
    if done_before + 1 == last - first:
        tl.store(level_losses + row, sum_range(partials, first, last, ACC))
        tl.debug_barrier()
        done_before = tl.atomic_add(counters + 2 * LEVELS, last - first, sem="acq_rel")
        if done_before + last - first == tiles:
            feature = sum_of_levels(level_losses, IMITATION, LEVELS)
            store_losses(losses, feature, sum_of_levels(level_losses, HEAD, LEVELS))


@triton.jit(
    do_not_specialize=[
        *("mask_sums", "factors", "pending", "counters", "level_losses", "losses"),
        *_SCALARS,
    ]
)
def factors_kernel(
    table,  # factor table of the levels
    mask_sums,  # [tiles], partial sums of S; None where the normalizer does not need them
    factors,  # [3, 2, LEVELS], written
    pending,  # [2, LEVELS], pending factors of the stored gradients, written
    counters,  # [2 LEVELS + 1] int32, set to 0 for the loss kernel
    level_losses,  # [2, LEVELS], set to 0: the loss kernel writes those of the levels that have tiles
    losses,  # [3], set to 0 for the case that the loss kernel has no tiles
    z_value_high, z_value_low, z_value_tensor,  # Z_l where the caller gives it, see scalar()
    feat_scale_high, feat_scale_low, feat_scale_tensor,
    head_scale_high, head_scale_low, head_scale_tensor,
    NORMALIZER: tl.constexpr,  # code, see contract.NORMALIZERS
    FEAT_PENDING: tl.constexpr,  # whether the gradients of feats are stored without scale / Z_l
    HEAD_PENDING: tl.constexpr,
    LEVELS: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """One program computes the factors of one level. Without sums, counts are whole normalizers."""
    level = tl.program_id(0)
    mask_sum = tl.full([], 1.0, ACC)
    if mask_sums is not None:
        mask_sum = sum_of_masks(table, mask_sums, level, NORMALIZER, LEVELS, ACC)
    z_value = scalar(z_value_high, z_value_low, z_value_tensor, ACC)
    for TERM in tl.static_range(2):
        if TERM == HEAD:
            count = table_entry(table, HEAD_COUNT, level, LEVELS, FACTOR_COLUMNS).to(ACC)
            scale = scalar(head_scale_high, head_scale_low, head_scale_tensor, ACC)
        else:
            count = table_entry(table, FEAT_COUNT, level, LEVELS, FACTOR_COLUMNS).to(ACC)
            scale = scalar(feat_scale_high, feat_scale_low, feat_scale_tensor, ACC)
        factor, nonzero_z = term_factor(normalizer(mask_sum, count, z_value, NORMALIZER), scale)
        one_or_zero = nonzero_z.to(ACC)
        tl.store(factor_pointer(factors, LOSS_FACTOR, TERM, level, LEVELS), factor)
        tl.store(factor_pointer(factors, NONZERO_Z, TERM, level, LEVELS), one_or_zero)
        if HEAD_PENDING if TERM == HEAD else FEAT_PENDING:
            tl.store(factor_pointer(factors, GRAD_FACTOR, TERM, level, LEVELS), one_or_zero)
            tl.store(pending + (TERM * LEVELS + level), factor)
        else:
            tl.store(factor_pointer(factors, GRAD_FACTOR, TERM, level, LEVELS), factor)
            tl.store(pending + (TERM * LEVELS + level), tl.full([], 1.0, ACC))
        tl.store(counters + (TERM * LEVELS + level), 0)
        tl.store(level_losses + (TERM * LEVELS + level), tl.full([], 0.0, ACC))
    if level == 0:
        tl.store(counters + 2 * LEVELS, 0)
        store_losses(losses, tl.full([], 0.0, ACC), tl.full([], 0.0, ACC))


@triton.jit
def finished_level(
    table, level, mask_sum, value, scale, sums, level_losses, factors,
    TERM: tl.constexpr, COUNT: tl.constexpr,
    NORMALIZER: tl.constexpr, LEVELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Returns and stores the loss of one level and term, which is 0 without ``sums`` of its tiles.

    ``COUNT`` is the term's column of the factor table.
    """
    loss = tl.full([], 0.0, ACC)
    factor = tl.full([], 0.0, ACC)
    nonzero_z = False
    if sums is not None:
        count = table_entry(table, COUNT, level, LEVELS, FACTOR_COLUMNS).to(ACC)
        factor, nonzero_z = term_factor(normalizer(mask_sum, count, value, NORMALIZER), scale)
        first = table_entry(table, SUM_FIRST, level, LEVELS, FACTOR_COLUMNS)
        last = table_entry(table, SUM_LAST, level, LEVELS, FACTOR_COLUMNS)
        loss = tl.where(nonzero_z, factor * sum_range(sums, first, last, ACC, _SUM_BLOCK), 0.0)
    if factors is not None:
        tl.store(factor_pointer(factors, LOSS_FACTOR, TERM, level, LEVELS), factor)
        tl.store(factor_pointer(factors, NONZERO_Z, TERM, level, LEVELS), tl.cast(nonzero_z, ACC))
    tl.store(level_losses + (TERM * LEVELS + level), loss)
    return loss


@triton.jit(
    do_not_specialize=[
        *("mask_sums", "feat_sums", "head_sums", "factors", "pending", "level_losses", "losses"),
        *_SCALARS,
    ]
)
def finish_kernel(
    table,  # factor table of the levels
    mask_sums,  # [tiles], partial sums of S
    feat_sums,  # [tiles], partial sums of S c (x - y)^2; None without an imitation term
    head_sums,  # [tiles], partial sums of S |p - q|^beta BCE(s, q); None without a head term
    factors,  # [3, 2, LEVELS], LOSS_FACTOR and NONZERO_Z written for image_losses_kernel; or None
    pending,  # [2, LEVELS], written: 1, as there are no gradients
    level_losses,  # [2, LEVELS], written
    losses,  # [3], written
    z_value_high, z_value_low, z_value_tensor,  # Z_l where the caller gives it, see scalar()
    feat_scale_high, feat_scale_low, feat_scale_tensor,
    head_scale_high, head_scale_low, head_scale_tensor,
    NORMALIZER: tl.constexpr,  # code, see contract.NORMALIZERS
    LEVELS: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """One program computes the losses from the partial sums of the single pass."""
    z_value = scalar(z_value_high, z_value_low, z_value_tensor, ACC)
    feat_scale = scalar(feat_scale_high, feat_scale_low, feat_scale_tensor, ACC)
    head_scale = scalar(head_scale_high, head_scale_low, head_scale_tensor, ACC)
    feature = tl.full([], 0.0, ACC)
    head = tl.full([], 0.0, ACC)
    for level in range(0, LEVELS):
        mask_sum = sum_of_masks(table, mask_sums, level, NORMALIZER, LEVELS, ACC)
        feature += finished_level(
            table,
            level,
            mask_sum,
            z_value,
            feat_scale,
            feat_sums,
            level_losses,
            factors,
            IMITATION,
            FEAT_COUNT,
            NORMALIZER,
            LEVELS,
            ACC,
        )
        head += finished_level(
            table,
            level,
            mask_sum,
            z_value,
            head_scale,
            head_sums,
            level_losses,
            factors,
            HEAD,
            HEAD_COUNT,
            NORMALIZER,
            LEVELS,
            ACC,
        )
        tl.store(pending + level, tl.full([], 1.0, ACC))
        tl.store(pending + LEVELS + level, tl.full([], 1.0, ACC))
    store_losses(losses, feature, head)


@triton.jit
def image_loss(
    bounds, level, image, sums, factors, TERM: tl.constexpr, LEVELS: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """The loss of one image in one level. Tiles are image-major, and each image has the same number."""
    first, last = tiles_of_row(bounds, TERM * LEVELS + level, LEVELS)
    share = (last - first) // tl.num_programs(0)
    first += image * share
    loss = sum_range(sums, first, first + share, ACC)
    if factors is not None:
        factor = tl.load(factor_pointer(factors, LOSS_FACTOR, TERM, level, LEVELS))
        nonzero_z = tl.load(factor_pointer(factors, NONZERO_Z, TERM, level, LEVELS)) != 0
        loss = tl.where(nonzero_z, factor * loss, 0.0)
    return loss


@triton.jit(do_not_specialize=["sums", "factors", "losses"])
def image_losses_kernel(
    bounds,  # tile bounds of both terms
    sums,  # the partial losses of loss_kernel, or the sums of single_kernel
    factors,  # [3, 2, LEVELS] of finish_kernel, which multiply the sums of single_kernel; or None
    losses,  # [3, B], written: feature, head and their sum of each image
    LEVELS: tl.constexpr,
    ACC: tl.constexpr,
):
    """One program adds the tiles of one image."""
    image = tl.program_id(0)
    feature = tl.full([], 0.0, ACC)
    head = tl.full([], 0.0, ACC)
    for level in range(0, LEVELS):
        feature += image_loss(bounds, level, image, sums, factors, IMITATION, LEVELS, ACC)
        head += image_loss(bounds, level, image, sums, factors, HEAD, LEVELS, ACC)
    store_losses(losses + image, feature, head, tl.num_programs(0))
