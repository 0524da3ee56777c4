"""Seeds of the random streams."""

from frs_train.streams import Stream, mix, seed_of


def test_seeds_of_streams_do_not_change():
    """A run with this version equals one with an earlier version."""
    drawn = {
        (Stream.WEIGHTS,): 1483236709961327762,
        (Stream.AUGMENTATION, 5): 12313969432895963,
        (Stream.ORDER, 2): 263380370424080493,
        (Stream.STEP, 7, 1): 7662775757091680543,
        (Stream.SIZE, 7): 3791494590389888593,
    }
    assert {place: seed_of(3, *place) for place in drawn} == drawn


def test_mixed_seeds_are_distinct():
    seeds = {mix(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500 and all(0 <= seed < 2**63 for seed in seeds)
