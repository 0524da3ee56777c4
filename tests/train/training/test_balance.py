"""The warnings about distillation weights: which ratios raise them, when, and how often."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import quiet_fit, run_config

from frs_train.config import DistillConfig
from frs_train.log import Log
from frs_train.training.balance import WEIGHTS, Balance
from frs_train.training.metrics import Metrics
from frs_train.training.run_files import read_metrics
from frs_train.training.terms import TERMS

DISTILL = DistillConfig(teacher="t", warmup_iters=10, feat_weight=0.003, head_weight=0.3)
# Gradients by level: of frs_feature, and of the detection losses, relative to all of the latter.
DIGITS = ([7.1, 0.7, 1.8, 1.5, 0.8], [1.0, 4e-7, 8e-8, 5e-8, 1e-7])  # in the demo, with its weights
BCCD = ([12, 21, 250, 140, 75], [0.99, 0.13, 9e-5, 7e-5, 1e-5])  # with --feat-weight 0.003


def record(term, detection, factor=1.0, name="frs_feature", part="feature_level"):
    """A line with the gradient of one term multiplied by a factor."""
    term = [factor * ratio for ratio in term]
    ratios = {
        **{f"detection_level_{i}": ratio for i, ratio in enumerate(detection)},
        **{f"{part}_{i}": ratio for i, ratio in enumerate(term)},
        name: sum(ratio**2 for ratio in term) ** 0.5,
    }
    return {"loss": 1.0, "losses": {"box": 0.5, name: 0.5}, "levels": {}, "ratios": ratios}


def judged(line, distill=DISTILL, lines=9):
    """The warnings of a run with the same line again and again, by iteration."""
    balance = Balance(distill)
    found = {i: balance.judge(i, line) for i in range(8, 8 + lines)}
    return {iteration: warnings for iteration, warnings in found.items() if warnings}


def test_documented_weights_of_the_digits_raise_no_warning():
    assert judged(record(*DIGITS)) == {}


def test_a_strong_term_is_named_once_with_a_weight_to_try():
    """The ratio 7.6 is multiplied by 10, and the weight 0.03 by 5 / 76."""
    warnings = judged(record(*DIGITS, factor=10), replace(DISTILL, feat_weight=0.03))
    assert list(warnings) == [13], "the third line after the warm-up"
    ((term, text),) = warnings[13].items()
    assert term == "frs_feature" and "76 times as strongly as the detection losses." in text
    assert text.endswith("Try --feat-weight 0.002.")


def test_the_head_term_has_its_own_weight():
    ((term, text),) = judged(record(*DIGITS, 10, "frs_head", "head_level"))[13].items()
    assert term == "frs_head" and text.endswith("Try --head-weight 0.02.")


def test_every_term_has_a_weight():
    assert WEIGHTS.keys() == TERMS.keys()
    assert all(getattr(DISTILL, option) > 0 for option in WEIGHTS.values())


@pytest.mark.parametrize(
    ("term", "advice"),
    [
        ("ld", "--normalizer mask_all_levels or --ld-weight 0.004"),
        ("kd", "--normalizer mask_all_levels or --kd-weight 0.008"),
        ("cwd", "--cwd-weight 0.2"),  # has no mask
    ],
)
def test_the_advice_is_about_the_options_of_the_term(term, advice):
    """The ratio of 297 becomes 5: the default weights 0.25, 0.5 and 10 are multiplied by 5 / 297."""
    text = judged(record(*BCCD, name=term, part=TERMS[term]))[13][term]
    assert f"{term} pulls at" in text and "99 % of it in levels 2, 3, 4" in text
    assert text.endswith(f"Try {advice}.")


def test_levels_in_which_detection_learns_nothing_are_named():
    """12 and 21 are 0.7 % of the sum of all squares, in the two levels with objects."""
    text = judged(record(*BCCD))[13]["frs_feature"]
    assert "297 times as strongly" in text and "99 % of it in levels 2, 3, 4 (0 is the finest)" in text
    assert text.endswith("Try --normalizer mask_all_levels or --feat-weight 5e-05.")


def test_a_single_level_is_named_in_the_singular():
    line = record([1, 1, 1, 30, 900], [0.9, 0.4, 0.1, 0.1, 1e-5])
    assert "100 % of it in level 4 (0 is" in judged(line)[13]["frs_feature"]


@pytest.mark.parametrize("normalizer", ["batch", "numel"])
def test_the_advice_is_another_divisor_only_where_a_level_has_its_own_sum_of_s(normalizer):
    text = judged(record(*BCCD), replace(DISTILL, normalizer=normalizer))[13]["frs_feature"]
    assert text.endswith("Try --feat-weight 5e-05.")


def test_no_line_of_the_warm_up_and_no_run_without_distillation_is_judged():
    line = record(*BCCD)
    assert judged(line, replace(DISTILL, warmup_iters=99)) == judged(line, None) == {}
    assert judged({**line, "ratios": {}}) == {}


def test_one_odd_line_raises_no_warning():
    balance = Balance(DISTILL)
    for iteration in range(11, 30):
        assert balance.judge(iteration, record(*DIGITS, factor=1000 if iteration == 15 else 1)) == {}


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_advice_does_not_depend_on_the_weight_that_is_too_strong(one, other):
    """A gradient is proportional to its weight: all weights that are too strong lead to the same advice."""
    texts = []
    for factor in (4 + one, 4 + other):
        line = record(*DIGITS, factor=factor)
        texts.append(judged(line, replace(DISTILL, feat_weight=0.003 * factor))[13]["frs_feature"])
    assert texts[0].rpartition("Try")[2] == texts[1].rpartition("Try")[2]


def test_a_warning_is_in_the_log_and_the_file_and_a_resumed_run_does_not_repeat_it(tmp_path, capsys):
    line = record(*BCCD) | {"lr": 0.1, "seconds_per_iteration": 1.0, "memory_mb": None}
    for first in (11, 15):
        metrics = Metrics(tmp_path, Log(), 99, False, Balance(DISTILL))
        metrics.forget_after(first - 1)
        for iteration in range(first, first + 4):
            metrics.train(iteration, line)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    found = [json.dumps(each["warnings"]) for each in lines if "warnings" in each]
    assert len(found) == 1 and "mask_all_levels" in found[0]
    assert capsys.readouterr().err.count("warning: frs_feature pulls") == 1


def test_a_run_is_judged_after_its_shortened_warm_up(digits, teacher, tmp_path):
    """The warm-up of 500 iterations becomes 2 of the 8. A weight that large warns on any processor."""
    distill = DistillConfig(teacher=str(teacher), feat_weight=1e4)
    quiet_fit(run_config(digits, tmp_path, distill=distill, iterations=8, clip=0.1))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["iteration"] for line in lines if "frs_feature" in line.get("warnings", {})] == [5]
