"""Arithmetic that several kernels share: exponentials, division, maxima that keep NaN, ordered sums."""

import triton
import triton.language as tl
from triton.language.extra import libdevice

# The device library's float32 exp and division that flush subnormal results to zero: a third fewer
# instructions for the same error of two units in the last place. The interpreter does not have them.
_FAST = tl.constexpr(not triton.knobs.runtime.interpret)


@triton.jit
def exp_minus_abs(x):
    """exp(-|x|); subnormal results may be flushed to zero."""
    if x.dtype == tl.float32 and _FAST:
        e = libdevice.fast_expf(tl.abs(x) * -1.0)  # -tl.abs(x) would be 0 - |x|, one more instruction
    else:
        e = tl.exp(-tl.abs(x))
    return e


@triton.jit
def divide(x, y):
    """x / y for a y far from the limits of its range; subnormal results may be flushed to zero."""
    if x.dtype == tl.float32 and _FAST:
        q = libdevice.fast_dividef(x, y)
    else:
        q = x / y
    return q


@triton.jit
def expm1(x):
    """exp(x) - 1 for x <= 0, accurate to a few roundings for x close to 0 as well."""
    if _FAST:
        result = libdevice.expm1(x)
    else:
        u = tl.exp(x)
        small = (x > -1.0) & (u != 1.0)
        near = tl.where(u == 1.0, x, (u - 1.0) * x / tl.where(small, tl.log(u), 1.0))
        result = tl.where(x > -1.0, near, u - 1.0)
    return result


@triton.jit
def log1p(x, reciprocal):
    """log(1 + x) for x >= 0, accurate for a small x as well; ``reciprocal`` is 1 / (1 + x)."""
    u = 1.0 + x
    return tl.log(u) + (x - (u - 1.0)) * reciprocal


@triton.jit
def log_ratio(x, y):
    """log(x / y) for positive x and y, accurate for a ratio close to 1 as well, exactly 0 for 1."""
    if _FAST:
        magnitude = libdevice.log1p(tl.abs(x - y) / tl.minimum(x, y))
    else:
        magnitude = tl.abs(tl.log(x / y))
    return tl.where(x < y, -magnitude, magnitude)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) with subnormal results. Computed once per location, so its cost does not matter."""
    if _FAST:
        e = libdevice.exp(-tl.abs(x))
    else:
        e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def max_over_channels(values):
    """Maximum of [C, L] over axis 0, NaN where a value is NaN: ``tl.max`` may drop it."""
    has_nan = tl.max((values != values).to(tl.int32), axis=0) > 0
    return tl.where(has_nan, float("nan"), tl.max(values, axis=0))


@triton.jit
def sum_range(pointer, first, last, ACC: tl.constexpr, BLOCK: tl.constexpr = 2048):
    """The sum of pointer[first:last], in an order that depends on the range alone."""
    total = tl.full([BLOCK], 0.0, ACC)
    for start in range(first, last, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(pointer + i, mask=i < last, other=0.0, cache_modifier=".cg")
    return tl.sum(total, axis=0)
