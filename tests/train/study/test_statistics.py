"""Differences by seed against values from textbooks and scipy, and the figures that they cannot give."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from frs_train.study.statistics import Difference, difference, summary

NUMBERS = st.floats(-100, 100).map(lambda x: round(x, 3))


def test_summary_of_known_values():
    found = summary({1: 2.0, 2: 4.0, 3: 9.0})
    assert (found.count, found.mean) == (3, 5.0) and found.deviation == pytest.approx(math.sqrt(13))
    assert summary({}) is None and summary({1: 3.0}).deviation is None


def test_interval_of_known_differences():
    """Mean 2 and standard deviation 1 of three pairs: 2 +- 4.3027 / sqrt(3), by a table of Student's t."""
    found = difference({1: 11.0, 2: 22.0, 3: 33.0}, {1: 10.0, 2: 20.0, 3: 30.0})
    half = 4.302653 / math.sqrt(3)
    assert (found.count, found.mean) == (3, 2.0)
    assert (found.low, found.high) == (pytest.approx(2 - half, abs=1e-5), pytest.approx(2 + half, abs=1e-5))
    assert found.verdict == "no difference shown"


def test_pairing_removes_what_seeds_share():
    """Runs that differ by 30 between seeds and by 1 within one are told apart."""
    ours, theirs = {1: 11.0, 2: 41.2, 3: 70.9}, {1: 10.0, 2: 40.0, 3: 70.0}
    assert difference(ours, theirs).verdict == "better" and difference(theirs, ours).verdict == "worse"
    assert stats.ttest_ind(list(ours.values()), list(theirs.values())).pvalue > 0.9


@given(st.dictionaries(st.integers(0, 9), st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=8))
def test_interval_is_that_of_a_paired_t_test(pairs):
    ours, theirs = ({seed: pair[k] for seed, pair in pairs.items()} for k in (0, 1))
    found = difference(ours, theirs)
    if len({ours[s] - theirs[s] for s in pairs}) > 1:
        keys = sorted(pairs)
        expected = stats.ttest_rel([ours[k] for k in keys], [theirs[k] for k in keys]).confidence_interval(
            0.95
        )
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)
    mirrored = difference(theirs, ours)
    assert mirrored.mean == pytest.approx(-found.mean) and mirrored.low == pytest.approx(-found.high)


def test_seeds_without_a_partner_are_left_out():
    assert difference({1: 5.0, 2: 6.0}, {2: 4.0, 3: 1.0}) == Difference(1, 2.0, None, None)
    assert difference({1: 5.0}, {2: 4.0}) is None
    assert difference({1: 5.0}, {1: 4.0}).verdict == "one pair"


def test_equal_differences_have_an_interval_of_no_width():
    assert difference({1: 2.0, 2: 3.0}, {1: 1.0, 2: 2.0}) == Difference(2, 1.0, 1.0, 1.0)
