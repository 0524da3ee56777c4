"""The KL divergence of softmax distributions, sum w KL(p || q), and its gradient.

With p = softmax(T / tau) and q = softmax(s / tau), in a form without cancellation, where M_t and M_s are the
maxima, e_t = exp((T - M_t) / tau) and E_t its sum, likewise e_s and E_s:
    KL(p || q) = sum e_t ((T - M_t) - (s - M_s)) / (tau E_t) - log(E_t / E_s)
    d/ds tau^2 KL = tau (q - p) = tau (e_s - e_t E_s / E_t) / E_s
Both are exactly 0 where s equals T, also where the compiler contracts a product and a sum: E_s / E_t is 1.

A program has BLOCK_ROWS distributions (*rows*): locations over channels, channels over locations. It reads
their bins in segments of PARTS blocks of BLOCK_BINS bins. What is added from part to part stays in a thread;
only the end needs an exchange between threads. RESIDENT distributions have one segment, which stays in
registers, so that every logit is read once. Others are read twice: for their sums, with the maxima so far,
and for the gradient.
"""

import triton
import triton.language as tl

from .arithmetic import divide, log_ratio
from .kl_tiles import (
    BINS,
    GRAD,
    KL_COLUMNS,
    ROWS,
    STUDENT,
    TEACHER,
    inside_bins,
    kl_entry,
    kl_origin,
    load_segment,
    load_weight,
    part_pointers,
    rows_view,
)
from .level_table import level_of_tile
from .reduce import GRAD_FACTOR, IMITATION, LOSS_FACTOR, NONZERO_Z, add_partial, factor_pointer


@triton.jit
def largest(parts, least, config: tl.constexpr):
    """The maximum of ``least`` and all parts [BLOCK_BINS, BLOCK_ROWS]. NaN may be dropped: sums have it."""
    PARTS: tl.constexpr = config.PARTS
    for i in tl.static_range(PARTS):
        least = tl.maximum(least, parts[i].to(config.ACC))
    return least


@triton.jit
def shifted(part, base, per_tau, config: tl.constexpr):
    """(x - base, exp((x - base) / tau)) of one part; ``per_tau`` is log2(e) / tau."""
    difference = part.to(config.ACC) - base
    return difference, tl.exp2(difference * per_tau)


@triton.jit
def segment_sums(students, teachers, base_s, base_t, per_tau, config: tl.constexpr):
    """(sum e_s, sum e_t, sum e_t ((T - base_t) - (s - base_s))) over the parts, [BLOCK_BINS, BLOCK_ROWS].

    A bin without probability counts 0, also where both logits are -Inf.
    """
    sum_s = tl.full([config.BLOCK_BINS, config.BLOCK_ROWS], 0.0, config.ACC)
    sum_t = sum_s
    dot = sum_s
    PARTS: tl.constexpr = config.PARTS
    for i in tl.static_range(PARTS):
        difference_s, e_s = shifted(students[i], base_s, per_tau, config)
        difference_t, e_t = shifted(teachers[i], base_t, per_tau, config)
        sum_s += e_s
        sum_t += e_t
        dot += tl.where(e_t == 0.0, 0.0, e_t * (difference_t - difference_s))
    return sum_s, sum_t, dot


@triton.jit
def rescaled(max_s, max_t, new_s, new_t, sum_s, sum_t, dot, per_tau):
    """The three sums with new bases instead of the maxima so far, which are -Inf where nothing was added.

    The selections keep the products apart from the sums that follow: E_s and E_t are equal where s equals T.
    """
    shift_s = tl.where(max_s == float("-inf"), 0.0, max_s - new_s)
    shift_t = tl.where(max_t == float("-inf"), 0.0, max_t - new_t)
    factor_s, factor_t = tl.exp2(shift_s * per_tau), tl.exp2(shift_t * per_tau)
    dot = tl.where(factor_t == 0.0, 0.0, factor_t * (dot + (shift_t - shift_s) * sum_t))
    sum_s = tl.where(factor_s == 0.0, 0.0, sum_s * factor_s)
    return sum_s, tl.where(factor_t == 0.0, 0.0, sum_t * factor_t), dot


@triton.jit
def or_zero(maximum):
    """A maximum to subtract: with that of no bins, -Inf, the difference would be NaN."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit
def sums_of_all_segments(student, teacher, bins, readable, per_tau, config: tl.constexpr):
    """(M_s, M_t, E_s, E_t, dot), each [BLOCK_ROWS]. Every bin of a block has running maxima of its own."""
    SEGMENT: tl.constexpr = config.PARTS * config.BLOCK_BINS
    max_s = tl.full([config.BLOCK_BINS, config.BLOCK_ROWS], float("-inf"), config.ACC)
    max_t = max_s
    sum_s = tl.full([config.BLOCK_BINS, config.BLOCK_ROWS], 0.0, config.ACC)
    sum_t = sum_s
    dot = sum_s
    for first in range(0, bins, SEGMENT):
        students = load_segment(student, first, bins, readable[None, :], config)
        teachers = load_segment(teacher, first, bins, readable[None, :], config)
        new_s, new_t = largest(students, max_s, config), largest(teachers, max_t, config)
        base_s, base_t = or_zero(new_s), or_zero(new_t)
        sum_s, sum_t, dot = rescaled(max_s, max_t, base_s, base_t, sum_s, sum_t, dot, per_tau)
        more_s, more_t, more = segment_sums(students, teachers, base_s, base_t, per_tau, config)
        sum_s += more_s
        sum_t += more_t
        dot += more
        max_s, max_t = new_s, new_t
    row_s, row_t = tl.max(max_s, axis=0), tl.max(max_t, axis=0)
    base_s, base_t = or_zero(row_s)[None, :], or_zero(row_t)[None, :]
    sum_s, sum_t, dot = rescaled(max_s, max_t, base_s, base_t, sum_s, sum_t, dot, per_tau)
    # Without any finite logit, the difference is NaN, and so are loss and gradient.
    row_s, row_t = tl.where(readable, row_s, 0.0), tl.where(readable, row_t, 0.0)
    total_s, total_t = tl.sum(sum_s, axis=0) + (row_s - row_s), tl.sum(sum_t, axis=0) + (row_t - row_t)
    return row_s, row_t, total_s, total_t, tl.sum(dot, axis=0)


@triton.jit
def store_gradient(
    grad, students, teachers, first, bins, inside, base_s, base_t, ratio, row_factor, per_tau,
    config: tl.constexpr,
):  # fmt: skip
    """Stores (e_s - e_t E_s / E_t) * row_factor of one segment. ``ratio`` is E_s / E_t."""
    PARTS: tl.constexpr = config.PARTS
    for i in tl.static_range(PARTS):
        _, e_s = shifted(students[i], base_s[None, :], per_tau, config)
        _, e_t = shifted(teachers[i], base_t[None, :], per_tau, config)
        gradient = ((e_s - e_t * ratio[None, :]) * row_factor[None, :]).to(config.STUDENT_DTYPE)
        bin = first + i * config.BLOCK_BINS
        mask = inside_bins(bin, bins, config) & inside[None, :]
        tl.store(part_pointers(grad, bin, config), gradient, mask=mask)


@triton.jit
def kl_rows(table, level, image, group, row, nonzero_z, grad_factor, per_tau, tau, config: tl.constexpr):
    """tau^2 w KL [BLOCK_ROWS], 0 in rows that are not there; stores the gradient.

    d/ds = ``grad_factor`` tau w (q - p), where the factor is scale / Z_l, or 1 where that is pending. Where
    ``nonzero_z`` is false, nothing is read: loss and gradient are 0.
    """
    bins = kl_entry(table, BINS, level, config).to(config.INDEX)
    rows = kl_entry(table, ROWS, level, config)
    offs_row = row + tl.arange(0, config.BLOCK_ROWS)
    inside = offs_row < rows
    readable = offs_row < tl.where(nonzero_z, rows, 0)
    student = rows_view(table, STUDENT, config.STUDENT_DTYPE, level, image, group, row, config)
    teacher = rows_view(table, TEACHER, config.TEACHER_DTYPE, level, image, group, row, config)
    if config.RESIDENT:
        students = load_segment(student, 0, bins, readable[None, :], config)
        teachers = load_segment(teacher, 0, bins, readable[None, :], config)
        nothing = tl.full([config.BLOCK_BINS, config.BLOCK_ROWS], float("-inf"), config.ACC)
        base_s = tl.where(readable, tl.max(largest(students, nothing, config), axis=0), 0.0)
        base_t = tl.where(readable, tl.max(largest(teachers, nothing, config), axis=0), 0.0)
        sums = segment_sums(students, teachers, base_s[None, :], base_t[None, :], per_tau, config)
        sum_s, sum_t, dot = tl.sum(sums[0], axis=0), tl.sum(sums[1], axis=0), tl.sum(sums[2], axis=0)
    else:
        base_s, base_t, sum_s, sum_t, dot = sums_of_all_segments(
            student, teacher, bins, readable, per_tau, config
        )
    weight = load_weight(table, level, image, row, readable, config)
    if config.HAS_GRAD:
        grad = rows_view(table, GRAD, config.STUDENT_DTYPE, level, image, group, row, config)
        ratio = tl.where(sum_s == sum_t, 1.0, divide(sum_s, sum_t))
        row_factor = tl.where(readable, divide(grad_factor * weight * tau, sum_s), 0.0)
        # An infinite weight times the difference of two probabilities is one of two infinities.
        row_factor = tl.where(tl.abs(row_factor) == float("inf"), float("nan"), row_factor)
        if config.RESIDENT:
            store_gradient(
                grad, students, teachers, 0, bins, inside, base_s, base_t, ratio, row_factor, per_tau, config
            )  # fmt: skip
        else:
            SEGMENT: tl.constexpr = config.PARTS * config.BLOCK_BINS
            for i in range(0, tl.cdiv(bins, SEGMENT)):
                # In reverse: the last segments are those that the L2 cache still holds.
                first = (tl.cdiv(bins, SEGMENT) - 1 - i) * SEGMENT
                students = load_segment(student, first, bins, readable[None, :], config)
                teachers = load_segment(teacher, first, bins, readable[None, :], config)
                store_gradient(
                    grad, students, teachers, first, bins, inside, base_s, base_t, ratio, row_factor, per_tau,
                    config,
                )  # fmt: skip
    divergence = tau * divide(dot, sum_t) - tau * tau * log_ratio(sum_t, sum_s)
    return tl.where(readable, weight * divergence, 0.0)


@triton.jit
def kl_tile(table, tile, row_blocks, factors, per_tau, tau, config: tl.constexpr):
    """The loss of one tile, tau^2 scale / Z_l sum w KL, or 0 where Z_l is 0; stores its gradient."""
    level = level_of_tile(table, tile, config.LEVELS, KL_COLUMNS)
    image, group, row = kl_origin(table, level, tile, row_blocks, config)
    nonzero_z = tl.load(factor_pointer(factors, NONZERO_Z, IMITATION, level, config.LEVELS)) != 0
    grad_factor = tl.load(factor_pointer(factors, GRAD_FACTOR, IMITATION, level, config.LEVELS))
    total = tl.full([config.BLOCK_ROWS], 0.0, config.ACC)
    last = tl.minimum(row + row_blocks * config.BLOCK_ROWS, kl_entry(table, ROWS, level, config))
    for first in range(row, last.to(config.INDEX), config.BLOCK_ROWS):
        total += kl_rows(
            table, level, image, group, first, nonzero_z, grad_factor, per_tau, tau, config
        )  # fmt: skip
    factor = tl.load(factor_pointer(factors, LOSS_FACTOR, IMITATION, level, config.LEVELS))
    return tl.where(nonzero_z, factor * tl.sum(total, axis=0), 0.0)


@triton.jit(
    do_not_specialize=[
        *("factors", "partials", "counters", "level_losses", "losses", "tiles", "row_blocks"),
        *("per_tau_high", "per_tau_low", "tau_high", "tau_low"),
    ]
)
def kl_kernel(
    table,  # KLLevel of each level: s, T [B, C, L] and w are read, ds [B, C, L] is written
    bounds,  # tile bounds, as of two terms, of which the second has no tiles
    factors,  # [3, 2, LEVELS], of factors_kernel; the first of both terms is this one
    partials,  # [tiles], written: the loss of each tile
    counters,  # [2 LEVELS + 1] int32, see add_partial()
    level_losses,  # [2, LEVELS], row 0 is written
    losses,  # [3], the first is the loss
    tiles,
    row_blocks,  # blocks of BLOCK_ROWS rows in a tile
    per_tau_high, per_tau_low,  # log2(e) / tau, the sum of two float32
    tau_high, tau_low,
    config: tl.constexpr,
):  # fmt: skip
    """Losses and gradients of all levels; one program per tile."""
    tile = tl.program_id(0)
    per_tau = tl.cast(per_tau_high, config.ACC) + tl.cast(per_tau_low, config.ACC)
    tau = tl.cast(tau_high, config.ACC) + tl.cast(tau_low, config.ACC)
    partial = kl_tile(table, tile, row_blocks, factors, per_tau, tau, config)
    add_partial(
        partial, tile, tiles, bounds, partials, counters, level_losses, losses, config.LEVELS, config.ACC
    )
