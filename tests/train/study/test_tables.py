"""The tables and the figure of a study, from results that are written here."""

from pathlib import Path

import pytest

from frs_train.study import tables
from frs_train.study.figure import figure
from frs_train.study.outcome import ArmOutcome, Candidate, DataOutcome, Outcome, RunOutcome, read_outcome
from frs_train.study.page import sections
from frs_train.text import markdown

EVIDENCE = Path(__file__).resolve().parents[3] / "docs"


def arm(method: str, *scores: float | None, **more) -> ArmOutcome:
    """An arm with a run for each score (a fraction) and the seeds 1, 2, ...; None is one that diverged."""
    runs = {n: RunOutcome({"AP": score}) for n, score in enumerate(scores, 1) if score is not None}
    lost = {n: "not finite" for n, score in enumerate(scores, 1) if score is None}
    return ArmOutcome({"method": method, **more.pop("options", {})}, runs, diverged=lost, **more)


@pytest.fixture
def outcome() -> Outcome:
    tried = [
        Candidate({"feat_weight": 0.1}, {9: 0.25}, {"frs_feature": 1.234, "feature_level_0": 1.0}),
        Candidate({"feat_weight": 1.0}, {9: None}),
    ]
    arms = {
        "none": arm("none", 0.10, 0.20, 0.30),
        "frs": arm("frs", 0.12, 0.22, 0.35, options={"feat_weight": 0.1}, candidates=tried),
        "lost": arm("frs", None, 0.1, None),
    }
    return Outcome([1, 2, 3], ["none"], {"data": DataOutcome(arms, {"AP": 0.5})})


def test_scores_are_means_with_differences_by_seed(outcome):
    """Differences of 2, 2 and 5 points: 3 +- 4.3027 * sqrt(3) / sqrt(3)."""
    rows = tables.scores(outcome, outcome.data["data"])
    assert rows == [
        ["arm", "runs", "mAP", "sd", "minus none [95 %]", "weights"],
        ["none", "3", "20.0", "10.00", "", ""],
        ["frs", "3", "23.0", "11.53", "+3.0 [-1.3, +7.3]", "feat_weight 0.1"],
        ["lost", "1", "10.0", "-", "-10.0", ""],
    ]


def test_every_run_is_visible(outcome):
    rows = tables.every_run(outcome, outcome.data["data"])
    assert rows[2] == ["frs", "12.0", "22.0", "35.0"] and rows[3] == ["lost", "diverged", "10.0", "diverged"]


def test_every_candidate_is_visible(outcome):
    assert tables.tuning(outcome.data["data"]) == [
        ["arm", "weights", "seed 9", "ratio of frs_feature"],
        ["frs", "feat_weight 0.1", "25.0", "1.2"],
        ["frs", "feat_weight 1.0", "-", ""],
    ]


def test_verdicts_say_what_the_intervals_hold(outcome):
    first, second = tables.verdicts(outcome)
    assert first == "data: frs minus none: +3.0 [-1.3, +7.3] mAP over 3 seeds: no difference shown."
    assert second == "data: lost minus none: -10.0 mAP over 1 seeds: one pair."


def test_the_figure_has_every_run_as_a_dot(outcome):
    left, right = figure(outcome).axes
    dots = [line.get_xdata() for line in left.lines if line.get_marker() == "o"]
    assert [list(map(round, x)) for x in dots] == [[10, 20, 30], [12, 22, 35], [10]]
    pairs = [line.get_xdata() for line in right.lines if line.get_marker() == "o"]
    assert [list(map(round, x)) for x in pairs] == [[2, 2, 5], [-10]]
    assert [label.get_text() for label in right.get_yticklabels()] == ["none", "frs", "lost"]


@pytest.mark.parametrize("study, tables_shown", [("claim", 9), ("softmax", 9)])
def test_the_tables_in_the_documentation_are_those_of_the_results(study, tables_shown):
    """docs/evidence.md shows the tables of each docs/evidence/STUDY.json."""
    text = (EVIDENCE / "evidence.md").read_text()
    found = list(sections(read_outcome(EVIDENCE / f"evidence/{study}.json")))
    assert len(found) == tables_shown
    assert [title for title, rows in found if markdown(rows) not in text] == []
