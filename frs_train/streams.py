"""Seeds of the random streams of a run."""

from __future__ import annotations


def mix(*numbers: int) -> int:
    """A seed in [0, 2^63) from several numbers (splitmix64's finaliser, folded over them)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ number) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        state = (state ^ state >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
        state ^= state >> 31
    return state >> 1
