"""The two passes over features and logits: with the factors of every level known, or with nothing known."""

import triton
import triton.language as tl

from frs_kernels.backends.triton.head import head
from frs_kernels.backends.triton.imitation import imitation
from frs_kernels.backends.triton.mask import peaks
from frs_kernels.backends.triton.reduce import store_losses
from frs_kernels.backends.triton.tiles import (
    ALIGNED,
    CHANNELS,
    FLAGS,
    LOCATIONS,
    field,
    location_weights,
    place,
    row_of,
    sigmoid,
    sum_range,
)


@triton.jit
def slopes(factors, entry, table, image, location, level, term: tl.constexpr):
    """S of BL locations times the factor of the stored gradient (reduce.py), and whether the level counts."""
    alive = tl.load(factors + 4 * term.ROWS + entry) != 0
    weights = location_weights(table, level, image, location, alive, term)
    return tl.load(factors + 2 * term.ROWS + entry) * weights, alive


@triton.jit
def weighted(factors, entry, table, image, location, level, values, term: tl.constexpr):
    """The sum of S * values times the factor of the loss; 0 in a level that does not count.

    S and the factor are read again rather than kept: they would occupy registers during the whole pass.
    """
    alive = tl.load(factors + 4 * term.ROWS + entry) != 0
    weights = location_weights(table, level, image, location, alive, term)
    return tl.where(alive, tl.load(factors + entry) * tl.sum(weights * values, axis=0), 0.0)


@triton.jit
def imitation_partial(table, tile, steps, factors, term: tl.constexpr):
    """What one tile adds to the feature loss."""
    level = row_of(table, tile, term.ROWS)
    image, first, location = place(table, level, tile, steps, term)
    slope, alive = slopes(factors, level, table, image, location, level, term)
    last = first + steps * term.BC
    error = imitation(table, level, image, first, last, location, slope, alive, term)
    return weighted(factors, level, table, image, location, level, error, term)


@triton.jit
def head_partial(table, tile, steps, factors, term: tl.constexpr):
    """What one tile adds to the head loss."""
    level = row_of(table, tile, term.ROWS)
    image, first, location = place(table, level, tile, steps, term)
    slope, alive = slopes(factors, term.ROWS + level, table, image, location, level, term)
    last = first + steps * term.BC
    entropy, _ = head(table, level, image, first, last, location, slope, alive, term)
    return weighted(factors, term.ROWS + level, table, image, location, level, entropy, term)


@triton.jit(
    do_not_specialize=[
        *("factors", "partials", "counter", "losses"),
        *("head_tiles", "feat_tiles", "head_steps", "feat_steps"),
    ]
)
def loss_kernel(
    head_table, feat_table, factors, partials, counter, losses,
    head_tiles, feat_tiles, head_steps, feat_steps,
    head_term: tl.constexpr, feat_term: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Losses and gradients of all levels; a term that is None is absent.

    The head's tiles come first and in order: the teacher's logits that the mask kernel read last are still
    in the cache. The features' come in reverse: small levels are narrow and slow, and nothing would run
    beside them at the end. The last program to finish (an integer counter says which) adds the partial
    sums, always in the order of the programs.
    """
    program = tl.program_id(0)
    feat_tile = head_tiles + feat_tiles - 1 - program
    if feat_term is None:
        partial = head_partial(head_table, program, head_steps, factors, head_term)
    elif head_term is None:
        partial = imitation_partial(feat_table, feat_tile, feat_steps, factors, feat_term)
    elif program < head_tiles:
        partial = head_partial(head_table, program, head_steps, factors, head_term)
    else:
        partial = imitation_partial(feat_table, feat_tile, feat_steps, factors, feat_term)
    tl.store(partials + program, partial)
    tl.debug_barrier()
    before = tl.atomic_add(counter, 1, sem="acq_rel")
    if before == head_tiles + feat_tiles - 1:
        feature = sum_range(partials, head_tiles, head_tiles + feat_tiles, ACC)
        store_losses(losses, feature, sum_range(partials, 0, head_tiles, ACC))


@triton.jit(do_not_specialize=["sums", "errors", "entropies"])
def single_kernel(
    head_table, feat_table, sums, errors, entropies,
    head_term: tl.constexpr, feat_term: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """One pass where no gradient is wanted: sums of S, S * error and S * entropy over BL locations.

    S is known only once all of the location's teacher logits are read; until then the terms are summed
    unweighted. Without ``HEAD`` the head's table has teacher logits alone; ``feat_term`` may be None.
    """
    tile = tl.program_id(0)
    level = row_of(head_table, tile, head_term.ROWS)
    image, _, location = place(head_table, level, tile, None, head_term)
    channels = field(head_table, CHANNELS, level, head_term.ROWS)
    unused = tl.full([head_term.BL], 0.0, head_term.ACC)
    if HEAD:
        entropy, peak = head(head_table, level, image, 0, channels, location, unused, True, head_term)
    elif head_term.ALL_ALIGNED:
        peak = peaks(head_table, level, image, location, head_term, True)
    elif (field(head_table, FLAGS, level, head_term.ROWS) & ALIGNED) != 0:
        peak = peaks(head_table, level, image, location, head_term, True)
    else:
        peak = peaks(head_table, level, image, location, head_term, False)
    inside = location + tl.arange(0, head_term.BL) < field(head_table, LOCATIONS, level, head_term.ROWS)
    weights = tl.where(inside, sigmoid(peak), 0.0)
    tl.store(sums + tile, tl.sum(weights, axis=0))
    if HEAD:
        tl.store(entropies + tile, tl.sum(weights * entropy, axis=0))
    if feat_term is not None:
        depth = field(feat_table, CHANNELS, level, feat_term.ROWS)
        error = imitation(feat_table, level, image, 0, depth, location, unused, True, feat_term)
        tl.store(errors + tile, tl.sum(weights * error, axis=0))
