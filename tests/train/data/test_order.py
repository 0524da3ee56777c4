"""The order of the training images: a pure function of the seed."""

import pytest

from frs_train.data.order import TrainingOrder
from frs_train.errors import UserError


def order(rank=0, world=1, start=0, stop=6, parts=1, seed=0):
    return list(TrainingOrder(10, 4, seed, start, stop, rank, world, parts))


def test_each_epoch_has_each_image_once():
    indices = [index for batch in order(stop=5) for index, _ in batch]
    assert sorted(indices[:10]) == sorted(indices[10:20]) == list(range(10))
    assert indices[:10] != indices[10:20]


def test_draws_are_distinct():
    draws = [draw for batch in order() for _, draw in batch]
    assert len(set(draws)) == len(draws)


def test_resumed_order_continues_where_it_stopped():
    assert order(start=3) == order()[3:]


def test_processes_and_micro_batches_split_the_same_batches():
    whole = order()
    ranks = [order(rank, 2) for rank in range(2)]
    assert [sum(shares, []) for shares in zip(*ranks, strict=True)] == whole
    parts = order(parts=2)
    assert [parts[i] + parts[i + 1] for i in range(0, len(parts), 2)] == whole


def test_different_seeds_give_different_orders():
    assert order(seed=0) != order(seed=1)


def test_uneven_batches_are_refused():
    with pytest.raises(UserError, match="4 images cannot be split evenly over 3"):
        order(world=3)
