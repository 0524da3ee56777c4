"""The small kernels between and after the passes: Z_l, the factors that follow from it, the losses.

``Z_l`` codes are the positions in :data:`frs_kernels.contract.NORMALIZERS`. Numbers from the host come as
two float32, whose sum is right to 48 bits: enough for float64 inputs, with no float64 in the kernels of
float32 ones.
"""

import triton
import triton.language as tl

from frs_kernels.backends.triton.tiles import field, sum_range

THREADS = 512  # a program: few of them read thousands of partial sums, so what counts is loads in flight
ADDED = tl.constexpr(8192)  # partial sums at a time: 16 loads a thread before the first is needed
FACTORS = tl.constexpr(3)  # rows of ``factors``: of the loss, of the stored gradient, whether Z_l != 0
# Columns of the table of levels: the range of N_l's partial sums, and what multiplies or replaces N_l.
SUM_FIRST, SUM_LAST, FEAT_COUNT, HEAD_COUNT = (tl.constexpr(i) for i in range(4))
COLUMNS = tl.constexpr(4)
_NUMBERS = [f"{name}_{part}" for name in ("value", "feat", "head") for part in ("high", "low", "tensor")]


@triton.jit
def number(high, low, tensor, ACC: tl.constexpr):
    """A number from the host times an optional one on the device."""
    value = tl.cast(high, ACC) + tl.cast(low, ACC)
    if tensor is not None:
        value *= tl.load(tensor)
    return value


@triton.jit
def divisor(weight, count, value, NORMALIZER: tl.constexpr):
    """Z_l from N_l, from the count of what it is divided by, or from the value given."""
    if NORMALIZER == 0:
        z = weight
    elif NORMALIZER == 1:
        z = weight * count + 1e-9
    elif NORMALIZER == 4:
        z = value
    else:
        z = count
    return z


@triton.jit
def loss_factor(z, scale):
    """scale / Z_l, or 0 where Z_l is 0; and whether it is not."""
    alive = z != 0
    return tl.where(alive, scale / tl.where(alive, z, 1.0), 0.0), alive


@triton.jit(do_not_specialize=["sums", "factors", "pending", "counter", "losses", *_NUMBERS])
def factors_kernel(
    table, sums, factors, pending, counter, losses,
    value_high, value_low, value_tensor,
    feat_high, feat_low, feat_tensor,
    head_high, head_low, head_tensor,
    NORMALIZER: tl.constexpr, FEAT_PENDING: tl.constexpr, HEAD_PENDING: tl.constexpr,
    ROWS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """One program a level. ``*_PENDING``: the gradient is stored without scale / Z_l, which the backward
    applies (float16, where it would be lost to underflow). Also zeroes the counter of the loss kernel, and
    the losses, which stay so if there is nothing to sum."""
    level = tl.program_id(0)
    weight = tl.full([], 0.0, ACC)
    if NORMALIZER < 2:
        weight = sum_range(
            sums,
            field(table, SUM_FIRST, level, ROWS, COLUMNS),
            field(table, SUM_LAST, level, ROWS, COLUMNS),
            ACC,
            ADDED,
        )
    value = number(value_high, value_low, value_tensor, ACC)
    for head in tl.static_range(2):
        if head:
            count = field(table, HEAD_COUNT, level, ROWS, COLUMNS).to(ACC)
            scale = number(head_high, head_low, head_tensor, ACC)
        else:
            count = field(table, FEAT_COUNT, level, ROWS, COLUMNS).to(ACC)
            scale = number(feat_high, feat_low, feat_tensor, ACC)
        factor, alive = loss_factor(divisor(weight, count, value, NORMALIZER), scale)
        one = alive.to(ACC)
        at = head * ROWS + level
        tl.store(factors + at, factor)
        tl.store(factors + 4 * ROWS + at, one)
        if HEAD_PENDING if head else FEAT_PENDING:
            tl.store(factors + 2 * ROWS + at, one)
            tl.store(pending + at, factor)
        else:
            tl.store(factors + 2 * ROWS + at, factor)
            tl.store(pending + at, tl.full([], 1.0, ACC))
    if level == 0:
        tl.store(counter, 0)
        store_losses(losses, tl.full([], 0.0, ACC), tl.full([], 0.0, ACC))


@triton.jit
def store_losses(losses, feature, head):
    tl.store(losses, feature)
    tl.store(losses + 1, head)
    tl.store(losses + 2, feature + head)


@triton.jit(do_not_specialize=["sums", "errors", "entropies", "losses", "pending", *_NUMBERS])
def finish_kernel(
    table, sums, errors, entropies, losses, pending,
    value_high, value_low, value_tensor,
    feat_high, feat_low, feat_tensor,
    head_high, head_low, head_tensor,
    NORMALIZER: tl.constexpr, ROWS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """One program: the losses from the partial sums that the single pass left (None: term absent)."""
    value = number(value_high, value_low, value_tensor, ACC)
    feat_scale = number(feat_high, feat_low, feat_tensor, ACC)
    head_scale = number(head_high, head_low, head_tensor, ACC)
    feature = tl.full([], 0.0, ACC)
    head = tl.full([], 0.0, ACC)
    for level in range(0, ROWS):
        first = field(table, SUM_FIRST, level, ROWS, COLUMNS)
        last = field(table, SUM_LAST, level, ROWS, COLUMNS)
        weight = sum_range(sums, first, last, ACC, ADDED)
        if errors is not None:
            count = field(table, FEAT_COUNT, level, ROWS, COLUMNS).to(ACC)
            factor, alive = loss_factor(divisor(weight, count, value, NORMALIZER), feat_scale)
            feature += tl.where(alive, factor * sum_range(errors, first, last, ACC, ADDED), 0.0)
        if entropies is not None:
            count = field(table, HEAD_COUNT, level, ROWS, COLUMNS).to(ACC)
            factor, alive = loss_factor(divisor(weight, count, value, NORMALIZER), head_scale)
            head += tl.where(alive, factor * sum_range(entropies, first, last, ACC, ADDED), 0.0)
        tl.store(pending + level, tl.full([], 1.0, ACC))
        tl.store(pending + ROWS + level, tl.full([], 1.0, ACC))
    store_losses(losses, feature, head)
