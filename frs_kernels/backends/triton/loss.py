"""The loss pass and the single pass: both read all features and logits and add up the losses of all levels.

The loss pass runs when mask and factors are known, so it stores gradients as well. The single pass serves
calls that want no gradients: it computes mask and losses, not yet normalized, with one read of every input.
"""

import triton
import triton.language as tl

from .arithmetic import sigmoid
from .head import head_tile
from .imitation import imitation_tile
from .level_table import CHANNELS, LOCATIONS, level_of_tile, table_entry
from .mask import max_logit_tile
from .reduce import (
    GRAD_FACTOR,
    HEAD,
    IMITATION,
    LOSS_FACTOR,
    NONZERO_Z,
    add_partial,
    factor_pointer,
)
from .tiles import load_mask, tile_origin


@triton.jit
def load_grad_factor(factors, TERM: tl.constexpr, table, image, location, level, config: tl.constexpr):
    """S [BLOCK_L] times the level's factor of the stored gradient, and whether Z_l is not 0."""
    nonzero_z = tl.load(factor_pointer(factors, NONZERO_Z, TERM, level, config.LEVELS)) != 0
    mask = load_mask(table, level, image, location, nonzero_z, config)
    return tl.load(factor_pointer(factors, GRAD_FACTOR, TERM, level, config.LEVELS)) * mask, nonzero_z


@triton.jit
def masked_loss(factors, TERM: tl.constexpr, table, image, location, level, sums, config: tl.constexpr):
    """The loss of one tile: factor * sum_l S ``sums``, where ``sums`` [BLOCK_L] are over channels.

    It is 0 where Z_l is 0. S is loaded a second time here: kept since load_grad_factor(), it would occupy
    registers during the loop over channels.
    """
    nonzero_z = tl.load(factor_pointer(factors, NONZERO_Z, TERM, level, config.LEVELS)) != 0
    mask = load_mask(table, level, image, location, nonzero_z, config)
    factor = tl.load(factor_pointer(factors, LOSS_FACTOR, TERM, level, config.LEVELS))
    return tl.where(nonzero_z, factor * tl.sum(mask * sums, axis=0), 0.0)


@triton.jit
def imitation_loss(table, tile, channel_blocks, factors, config: tl.constexpr):
    """The feature loss of one tile; stores its gradient."""
    level = level_of_tile(table, tile, config.LEVELS)
    image, first, location = tile_origin(table, level, tile, channel_blocks, config)
    grad_factor, nonzero_z = load_grad_factor(factors, IMITATION, table, image, location, level, config)
    last = first + channel_blocks * config.BLOCK_C
    error = imitation_tile(table, level, image, first, last, location, grad_factor, nonzero_z, config)
    return masked_loss(factors, IMITATION, table, image, location, level, error, config)


@triton.jit
def head_loss(table, tile, channel_blocks, factors, config: tl.constexpr):
    """The head loss of one tile; stores its gradient."""
    level = level_of_tile(table, tile, config.LEVELS)
    image, first, location = tile_origin(table, level, tile, channel_blocks, config)
    grad_factor, nonzero_z = load_grad_factor(factors, HEAD, table, image, location, level, config)
    last = first + channel_blocks * config.BLOCK_C
    entropy, _ = head_tile(table, level, image, first, last, location, grad_factor, nonzero_z, config)
    return masked_loss(factors, HEAD, table, image, location, level, entropy, config)


@triton.jit(
    do_not_specialize=[
        *("factors", "partials", "counters", "level_losses", "losses"),
        *("head_tiles", "feat_tiles", "head_channel_blocks", "feat_channel_blocks"),
    ]
)
def loss_kernel(
    head_table,  # level table: s, T [B, K, L] and S [B, L] are read, ds [B, K, L] is written; or None
    feat_table,  # level table: x, y [B, D, L], c [B, D] and S are read, dx [B, D, L] is written; or None
    bounds,  # tile bounds of both terms
    factors,  # [3, 2, LEVELS], of factors_kernel
    partials,  # [programs], written: the loss of each tile, first the imitation term's, then the head term's
    counters,  # [2 LEVELS + 1] int32, tiles done: of each row of level_losses, of complete rows; 0 at first
    level_losses,  # [2, LEVELS], the imitation and the head term of each level, written where it has tiles
    losses,  # [3] = (feature, head, feature + head), written
    head_tiles,  # tiles of the head term; head_tiles + feat_tiles programs
    feat_tiles,
    head_channel_blocks,  # blocks of BLOCK_C channels in a tile
    feat_channel_blocks,
    head_config: tl.constexpr,  # None: no head term
    feat_config: tl.constexpr,  # None: no imitation term
    ACC: tl.constexpr,
):
    """Losses and gradients of all levels; one program per tile.

    The head's tiles run first and in order: they begin with the teacher logits that the mask kernel has read
    last, part of which the L2 cache still holds. The imitation tiles run in reverse: small levels are
    unaligned and slow, and would otherwise run alone at the end (tail effect).

    The last program of a level and term, as an integer counter shows, adds its partial losses in the order of
    the tiles, while those of other levels still run. The last of these programs adds the levels.
    """
    LEVELS: tl.constexpr = feat_config.LEVELS if head_config is None else head_config.LEVELS
    program = tl.program_id(0)
    feat_tile = head_tiles + feat_tiles - 1 - program
    if feat_config is None:
        partial = head_loss(head_table, program, head_channel_blocks, factors, head_config)
    elif head_config is None:
        partial = imitation_loss(feat_table, feat_tile, feat_channel_blocks, factors, feat_config)
    elif program < head_tiles:
        partial = head_loss(head_table, program, head_channel_blocks, factors, head_config)
    else:
        partial = imitation_loss(feat_table, feat_tile, feat_channel_blocks, factors, feat_config)
    # The row is found anew: kept since the beginning, the level would occupy registers in the loops.
    tile = tl.where(program < head_tiles, feat_tiles + program, feat_tile)
    add_partial(
        partial, tile, head_tiles + feat_tiles, bounds, partials, counters, level_losses, losses, LEVELS, ACC
    )


@triton.jit(do_not_specialize=["mask_sums", "feat_sums", "head_sums"])
def single_kernel(
    head_table,  # level table: T [B, K, L] and, with HAS_HEAD, s [B, K, L] are read
    feat_table,  # level table: x, y [B, D, L] and c [B, D] are read; or None
    mask_sums,  # [programs], sum_l S of each tile, written
    feat_sums,  # [programs], sum_l S sum_c c (x - y)^2 of each tile, written; or None
    head_sums,  # [programs], sum_l S sum_k |p - q|^beta BCE(s, q) of each tile, written; or None
    head_config: tl.constexpr,
    feat_config: tl.constexpr,  # None: no imitation term
    HAS_HEAD: tl.constexpr,  # whether there is a head term; otherwise the logits serve the mask alone
):
    """The single pass: one program per BLOCK_L locations of one image, with all channels of both terms.

    S is known only after all teacher logits of a location are read, so the sums over channels are multiplied
    by S at the end.
    """
    tile = tl.program_id(0)
    level = level_of_tile(head_table, tile, head_config.LEVELS)
    image, _, location = tile_origin(head_table, level, tile, None, head_config)
    channels = table_entry(head_table, CHANNELS, level, head_config.LEVELS)
    no_factor = tl.full([head_config.BLOCK_L], 0.0, head_config.ACC)  # there is no gradient
    if HAS_HEAD:
        entropy, max_t = head_tile(
            head_table, level, image, 0, channels, location, no_factor, True, head_config
        )
    else:
        max_t = max_logit_tile(head_table, level, image, location, head_config)
    locations = table_entry(head_table, LOCATIONS, level, head_config.LEVELS)
    inside = location + tl.arange(0, head_config.BLOCK_L) < locations
    mask = tl.where(inside, sigmoid(max_t), 0.0)
    tl.store(mask_sums + tile, tl.sum(mask, axis=0))
    if HAS_HEAD:
        tl.store(head_sums + tile, tl.sum(mask * entropy, axis=0))
    if feat_config is not None:
        feat_channels = table_entry(feat_table, CHANNELS, level, feat_config.LEVELS)
        error = imitation_tile(
            feat_table, level, image, 0, feat_channels, location, no_factor, True, feat_config
        )
        tl.store(feat_sums + tile, tl.sum(mask * error, axis=0))
