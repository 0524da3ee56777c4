"""The head term of one tile: sum S |p - q|^beta BCE(s, q), and its gradient.

p = sigmoid(s), q = sigmoid(T), in a form without cancellation:
    BCE(s, q) = |s| * (1 - q if s >= 0 else q) + log1p(exp(-|s|))
The arithmetic counts here: two exponentials and one division an element (both sigmoids share it), and no
logarithm: log1p(e) is summed as log1p of a product, q <- q (1 + e) + e, one FMA an element.
"""

import triton
import triton.language as tl

from frs_kernels.backends.triton.tiles import (
    ALIGNED,
    FLAGS,
    STUDENT,
    TEACHER,
    block,
    decay,
    expm1,
    extent,
    field,
    grad_view,
    input_view,
    largest,
    load_once,
    quotient,
)

_PADDING = tl.constexpr(-10000.0)  # as s and T: entropy and gradient of exactly 0, and no NaN
_FACTORS = tl.constexpr(64)  # in one product: each is at most 2, so float32 holds 127


@triton.jit
def log1p(x, reciprocal):
    """log(1 + x) for x >= 0 without losing a small x; ``reciprocal`` is 1 / (1 + x)."""
    u = 1.0 + x
    return tl.log(u) + (x - (u - 1.0)) * reciprocal


@triton.jit
def probabilities(s, t):
    """p, q, 1 - q, the linear part of the entropy, e = exp(-|s|) and 1 / (1 + e)."""
    e = decay(s)
    e_t = decay(t)
    u = 1.0 + e
    u_t = 1.0 + e_t
    both = u * u_t
    reciprocal = quotient(u_t, both)
    large = quotient(u, both)  # sigmoid(|t|)
    small = e_t * large  # sigmoid(-|t|)
    p = tl.where(s >= 0, reciprocal, e * reciprocal)
    q = tl.where(t >= 0, large, small)
    rest = tl.where(t >= 0, small, large)
    linear = tl.abs(s) * tl.where((s >= 0) != (t >= 0), large, small)
    return p, q, rest, linear, e, reciprocal


@triton.jit
def apart(s, t, p, q, rest, e, reciprocal):
    """p - q without cancellation: a power of it below 1 would amplify the roundings of two sigmoids.

    p (1 - q) (1 - exp(t - s)) where s > t, and the same with p and q exchanged where s < t.
    """
    distance = tl.where(s == t, 0.0, tl.abs(s - t))  # NaN where one of them is
    change = expm1(-distance)
    return tl.where(s >= t, -(p * rest), q * (tl.where(s >= 0, e, 1.0) * reciprocal)) * change


@triton.jit
def modulated(s, t, p, q, rest, linear, e, reciprocal, BETA: tl.constexpr):
    """|p - q|^beta * entropy and its derivative in s, taken as that of 0 where p == q."""
    entropy = linear + log1p(e, reciprocal)
    difference = apart(s, t, p, q, rest, e, reciprocal)
    distance = tl.abs(difference)
    if BETA == 1:
        below = tl.where(distance == 0, 0.0, 1.0)  # distance^(beta - 1)
    elif BETA == 2:
        below = distance
    else:
        below = tl.where(distance == 0, 0.0, tl.exp2((BETA - 1.0) * tl.log2(distance)))
    power = below * distance
    slope = tl.where(difference < 0, -BETA, BETA) * below * (e * reciprocal * reciprocal)
    return power * entropy, power * difference + slope * entropy


@triton.jit
def cross_entropy(
    table, level, image, first, last, location, factor, alive, term: tl.constexpr, WIDE: tl.constexpr
):
    """(sum_c of the entropy of BL locations over channels [first, last), maximum of T over the same).

    Stores ``factor`` times the derivative. A level that is not alive is not read: its sum and gradient
    are 0. The maximum is that of padded values; only a caller that has no map yet uses it.
    """
    BC: tl.constexpr = term.BC if WIDE else term.NARROW_BC
    flags = field(table, FLAGS, level, term.ROWS)
    channels, locations = extent(table, level, term, WIDE)
    student = input_view(table, STUDENT, term.STUDENT, level, image, flags, term, WIDE)
    teacher = input_view(table, TEACHER, term.TEACHER, level, image, flags, term, WIDE)
    if term.GRAD:
        grad = grad_view(table, level, image, flags, term, WIDE)
    i = location + tl.arange(0, term.BL)
    here, readable = (i < locations)[None, :], (i < tl.where(alive, locations, 0))[None, :]
    last = tl.minimum(last, channels)
    total = tl.full([BC, term.BL], 0.0, term.ACC)
    peak = tl.full([BC, term.BL], float("-inf"), term.ACC)
    for segment in range(first, last, _FACTORS * BC):
        product = tl.full([BC, term.BL], 0.0, term.ACC)
        end = tl.minimum(last, segment + _FACTORS * BC)
        for c in tl.range(segment, end, BC, num_stages=term.STAGES if WIDE else 1):
            s = load_once(student, c, channels, location, readable, _PADDING, term, WIDE).to(term.ACC)
            t = load_once(teacher, c, channels, location, readable, _PADDING, term, WIDE).to(term.ACC)
            peak = tl.maximum(peak, t, propagate_nan=tl.PropagateNan.ALL)
            p, q, rest, linear, e, reciprocal = probabilities(s, t)
            if term.BETA > 0:
                value, derivative = modulated(s, t, p, q, rest, linear, e, reciprocal, term.BETA)
                total += value
            else:
                derivative = p - q
                total += linear
                product = product * (1.0 + e) + e
            if term.GRAD:
                gradient = (factor[None, :] * derivative).to(term.STUDENT)
                inside = (c + tl.arange(0, BC) < channels)[:, None] & here
                tl.store(
                    block(grad, c, location, term, WIDE), gradient,
                    mask=inside, eviction_policy="evict_first",
                )  # fmt: skip
        if term.BETA == 0:
            total += log1p(product, 1.0 / (1.0 + product))
    return tl.sum(total, axis=0), largest(peak)


@triton.jit
def head(table, level, image, first, last, location, factor, alive, term: tl.constexpr):
    """:func:`cross_entropy`, with wide accesses where the level allows them."""
    if term.ALL_ALIGNED:
        entropy, peak = cross_entropy(table, level, image, first, last, location, factor, alive, term, True)
    elif (field(table, FLAGS, level, term.ROWS) & ALIGNED) != 0:
        entropy, peak = cross_entropy(table, level, image, first, last, location, factor, alive, term, True)
    else:
        entropy, peak = cross_entropy(table, level, image, first, last, location, factor, alive, term, False)
    return entropy, peak
