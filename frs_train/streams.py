"""The random streams of a run: each draw is a function of the run's seed and the place of the draw.

No generator state has to be saved, and a draw does not depend on the number of processes or on interruptions.
The digits data set does not use these streams (see `data.digits`).
"""

from __future__ import annotations

from enum import IntEnum


class Stream(IntEnum):
    """The kinds of draws, and the numbers that identify a place. Other values would change all runs."""

    WEIGHTS = 0
    """Initial weights of student and adapters."""
    AUGMENTATION = 1
    """Flip and jitter of an image. Place: its position in the sequence of all epochs."""
    ORDER = 2
    """Order of the images. Place: the epoch."""
    STEP = 3
    """Draws within an optimizer step (sampling of proposals). Place: iteration and process."""
    SIZE = 4
    """Image size of a step. Place: the iteration."""


def seed_of(seed: int, stream: Stream, *place: int) -> int:
    """The seed of a draw, for the seed of the run."""
    return mix(seed, stream, *place)


def mix(*numbers: int) -> int:
    """A seed in [0, 2^63) from several numbers (the finalizer of splitmix64, folded over them)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ number) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        state = (state ^ state >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
        state ^= state >> 31
    return state >> 1
