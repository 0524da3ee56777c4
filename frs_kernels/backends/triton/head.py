"""The head term of one tile: sum_k S |p - q|^beta BCE(s, q), and its gradient.

p = sigmoid(s) and q = sigmoid(T). The cross-entropy is computed in a form without cancellation:
    BCE(s, q) = |s| * (1 - q if s >= 0 else q) + log1p(exp(-|s|))
In bfloat16 the loop is nearly limited by its arithmetic. An element takes two exponentials, one division
(both sigmoids share it) and no logarithm: the sum of log1p(e) is log1p(r), where r = prod(1 + e) - 1 takes
one FMA per element, r <- r (1 + e) + e.
"""

import triton
import triton.language as tl

from ...contract import MAX_LOG_FACTORS
from .arithmetic import divide, exp_minus_abs, expm1, log1p, max_over_channels
from .level_table import FLAG_ALIGNED, FLAGS, STUDENT, TEACHER, table_entry
from .tiles import block_pointers, grad_view, input_view, level_shape, load_block

_PADDING = tl.constexpr(-10000.0)  # of s and T: entropy and gradient are exactly 0, and nothing is NaN
_MAX_LOG_FACTORS = tl.constexpr(MAX_LOG_FACTORS)


@triton.jit
def probabilities(s, t):
    """p, q, 1 - q, the term of BCE(s, q) that is linear in s, e = exp(-|s|) and 1 / (1 + e)."""
    e = exp_minus_abs(s)
    e_t = exp_minus_abs(t)
    u = 1.0 + e
    u_t = 1.0 + e_t
    product = u * u_t
    reciprocal = divide(u_t, product)
    sigmoid_abs_t = divide(u, product)
    sigmoid_minus_abs_t = e_t * sigmoid_abs_t
    p = tl.where(s >= 0, reciprocal, e * reciprocal)
    q = tl.where(t >= 0, sigmoid_abs_t, sigmoid_minus_abs_t)
    one_minus_q = tl.where(t >= 0, sigmoid_minus_abs_t, sigmoid_abs_t)
    signs_differ = (s >= 0) != (t >= 0)
    linear = tl.abs(s) * tl.where(signs_differ, sigmoid_abs_t, sigmoid_minus_abs_t)
    return p, q, one_minus_q, linear, e, reciprocal


@triton.jit
def probability_difference(s, t, p, q, one_minus_q, e, reciprocal):
    """p - q without cancellation: a power of it below 1 would amplify the rounding errors of two sigmoids.

    p - q = p (1 - q) (1 - exp(t - s)) where s > t, and the same with p and q exchanged where s < t.
    """
    distance = tl.where(s == t, 0.0, tl.abs(s - t))  # 0 for equal infinities, NaN where s or t is NaN
    change = expm1(-distance)
    one_minus_p = tl.where(s >= 0, e, 1.0) * reciprocal
    return tl.where(s >= t, -(p * one_minus_q), q * one_minus_p) * change


@triton.jit
def focal_entropy(s, t, p, q, one_minus_q, linear, e, reciprocal, BETA: tl.constexpr):
    """|p - q|^beta BCE(s, q) for beta > 0, and its derivative in s, which is taken as 0 where p == q.

    d/ds = |p - q|^beta (p - q) + beta |p - q|^(beta - 1) sign(p - q) p (1 - p) BCE(s, q)
    """
    entropy = linear + log1p(e, reciprocal)
    difference = probability_difference(s, t, p, q, one_minus_q, e, reciprocal)
    distance = tl.abs(difference)
    if BETA == 1:
        power_beta_minus_1 = tl.where(distance == 0, 0.0, 1.0)
    elif BETA == 2:
        power_beta_minus_1 = distance
    else:
        power_beta_minus_1 = tl.where(distance == 0, 0.0, tl.exp2((BETA - 1.0) * tl.log2(distance)))
    power_beta = power_beta_minus_1 * distance
    distance_slope = tl.where(difference < 0, -BETA, BETA) * power_beta_minus_1
    power_slope = distance_slope * (e * reciprocal * reciprocal)  # p (1 - p) = e / (1 + e)^2
    return power_beta * entropy, power_beta * difference + power_slope * entropy


@triton.jit
def cross_entropy(
    table, level, image, first, last, location, grad_factor, nonzero_z,
    config: tl.constexpr, VECTORIZED: tl.constexpr,
):  # fmt: skip
    """(sum_k |p - q|^beta BCE(s, q), max_k T_k) over channels [first, last), both [BLOCK_L].

    Stores the gradient: d/ds = ``grad_factor`` (p - q) for beta = 0, else see :func:`focal_entropy`.
    ``grad_factor`` [BLOCK_L] is S * scale / Z_l, or S where that factor is pending. Where ``nonzero_z`` is
    false, nothing is read: sum and gradient are 0. The maximum includes padding; only the single pass, which
    has no mask yet, uses it.
    """
    BLOCK_C: tl.constexpr = config.BLOCK_C if VECTORIZED else config.UNALIGNED_BLOCK_C
    flags = table_entry(table, FLAGS, level, config.LEVELS)
    channels, locations = level_shape(table, level, config, VECTORIZED)
    student = input_view(table, STUDENT, config.STUDENT_DTYPE, level, image, flags, config, VECTORIZED)
    teacher = input_view(table, TEACHER, config.TEACHER_DTYPE, level, image, flags, config, VECTORIZED)
    if config.HAS_GRAD:
        grad = grad_view(table, level, image, flags, config, VECTORIZED)
    offs_l = location + tl.arange(0, config.BLOCK_L)
    inside_l = (offs_l < locations)[None, :]
    readable = (offs_l < tl.where(nonzero_z, locations, 0))[None, :]
    last = tl.minimum(last, channels)
    total = tl.full([BLOCK_C, config.BLOCK_L], 0.0, config.ACC)
    max_t = tl.full([BLOCK_C, config.BLOCK_L], float("-inf"), config.ACC)
    for segment in range(first, last, _MAX_LOG_FACTORS * BLOCK_C):
        product_minus_1 = tl.full([BLOCK_C, config.BLOCK_L], 0.0, config.ACC)
        end = tl.minimum(last, segment + _MAX_LOG_FACTORS * BLOCK_C)
        for c in tl.range(segment, end, BLOCK_C, num_stages=config.STAGES if VECTORIZED else 1):
            s = load_block(student, c, channels, location, readable, _PADDING, config, VECTORIZED)
            s = s.to(config.ACC)
            t = load_block(teacher, c, channels, location, readable, _PADDING, config, VECTORIZED)
            t = t.to(config.ACC)
            max_t = tl.maximum(max_t, t, propagate_nan=tl.PropagateNan.ALL)
            p, q, one_minus_q, linear, e, reciprocal = probabilities(s, t)
            if config.BETA > 0:
                loss, slope = focal_entropy(s, t, p, q, one_minus_q, linear, e, reciprocal, config.BETA)
                total += loss
            else:
                slope = p - q
                total += linear
                product_minus_1 = product_minus_1 * (1.0 + e) + e
            if config.HAS_GRAD:
                gradient = (grad_factor[None, :] * slope).to(config.STUDENT_DTYPE)
                inside = (c + tl.arange(0, BLOCK_C) < channels)[:, None] & inside_l
                pointers = block_pointers(grad, c, location, config, VECTORIZED)
                tl.store(pointers, gradient, mask=inside, eviction_policy="evict_first")
        if config.BETA == 0:
            total += log1p(product_minus_1, 1.0 / (1.0 + product_minus_1))
    return tl.sum(total, axis=0), max_over_channels(max_t)


@triton.jit
def head_tile(
    table, level, image, first, last, location, grad_factor, nonzero_z, config: tl.constexpr
):  # fmt: skip
    """:func:`cross_entropy`, with 16-byte accesses where the level is aligned."""
    if config.ALL_ALIGNED:
        entropy, max_t = cross_entropy(
            table, level, image, first, last, location, grad_factor, nonzero_z, config, True
        )
    elif (table_entry(table, FLAGS, level, config.LEVELS) & FLAG_ALIGNED) != 0:
        entropy, max_t = cross_entropy(
            table, level, image, first, last, location, grad_factor, nonzero_z, config, True
        )
    else:
        entropy, max_t = cross_entropy(
            table, level, image, first, last, location, grad_factor, nonzero_z, config, False
        )
    return entropy, max_t
