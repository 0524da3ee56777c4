"""The random streams of a run: every draw is a function of the run's seed and of where it is made.

So no generator state is saved, and a draw does not depend on the number of processes or on an interruption.
(The digits data set has a generator of its own, see `data.digits`.)
"""

from __future__ import annotations

from enum import IntEnum


class Stream(IntEnum):
    """What is drawn, and which numbers say where. The values are part of every run's reproducibility."""

    WEIGHTS = 0
    """The initial weights of student and adapters."""
    AUGMENTATION = 1
    """Flip and jitter of an image; its position in the sequence of all epochs."""
    ORDER = 2
    """The order of the images; the epoch."""
    STEP = 3
    """Draws within an optimiser step (sampling of proposals); iteration and process."""
    SIZE = 4
    """The image size of a step; the iteration."""


def seed_of(seed: int, stream: Stream, *place: int) -> int:
    """The seed of a stream at a place, for a run's seed."""
    return mix(seed, stream, *place)


def mix(*numbers: int) -> int:
    """A seed in [0, 2^63) from several numbers (the finalizer of splitmix64, folded over them)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ number) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        state = (state ^ state >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
        state ^= state >> 31
    return state >> 1
