"""The section of a report about the weights of the distillation."""

import json

import pytest
from tiny_reports import Page, make_run, spoilt

from frs_train.config import DistillConfig
from frs_train.report.levels import level_curves
from frs_train.report.page import write_report
from frs_train.report.runs import read_runs

VALUES = {
    "levels": {"feature_level_0": 2.0, "feature_level_1": 300.0, "head_level_0": 0.5, "head_level_1": 0.25},
    "ratios": {"frs_feature": 90.0, "feature_level_0": 1.0, "frs_head": 0.125},
}
WARNING = "frs_feature is <300> times the detection losses."


def taught(folder, data, **values):
    """A run with these values in each of its three training lines, and a warning in the second."""

    def change(text):
        lines = [json.loads(line) for line in text.splitlines()]
        for line in lines:
            line |= values if line["kind"] == "train" else {}
        lines[1] |= {"warnings": {"frs_feature": WARNING}} if "ratios" in values else {}
        return "".join(json.dumps(line) + "\n" for line in lines)

    run = make_run(folder, data, 0.2, DistillConfig(teacher="t"))
    return spoilt(run, "metrics.jsonl", change)


@pytest.fixture
def runs(tmp_path, data):
    """One without a teacher, one of an older version without ratios, and one with all values."""
    older = taught(tmp_path / "older", data, levels=VALUES["levels"])
    return [make_run(tmp_path / "alone", data, 0.2), older, taught(tmp_path / "new", data, **VALUES)]


def lines_of(axis):
    return {line.get_label(): line.get_ydata()[-1] for line in axis.lines}


def test_a_row_for_each_run_with_a_teacher_shows_its_values(runs):
    figure = level_curves(read_runs(runs))
    panels = {axis.get_title(loc="left"): axis for axis in figure.axes}
    words = ("frs_feature", "frs_head", "gradient / detection's")
    assert list(panels) == [f"{run}: {word}" for run in ("older", "new") for word in words]
    for run in ("older", "new"):
        shown = lines_of(panels[f"{run}: frs_feature"])
        assert shown == {"level 0": 2.0, "level 1": 300.0, "detection": pytest.approx(0.1)}
        assert panels[f"{run}: frs_feature"].get_yscale() == "log"
        assert lines_of(panels[f"{run}: frs_head"])["level 1"] == 0.25
    assert lines_of(panels["new: gradient / detection's"]) == {"feature": 90.0, "head": 0.125}
    empty = panels["older: gradient / detection's"]
    assert not empty.lines and [text.get_text() for text in empty.texts] == ["not measured"]
    figure.draw_without_rendering()


def test_a_run_has_a_panel_for_each_of_its_terms(tmp_path, data):
    values = {"levels": {"ld_level_0": 2.0, "ld_level_1": 1.0}, "ratios": {"ld": 3.0, "ld_level_0": 2.5}}
    both = [taught(tmp_path / "ld", data, **values), taught(tmp_path / "frs", data, **VALUES)]
    figure = level_curves(read_runs(both))
    panels = {axis.get_title(loc="left"): axis for axis in figure.axes}
    words = {"ld": ["ld"], "frs": ["frs_feature", "frs_head"]}
    expected = [f"{run}: {word}" for run in words for word in [*words[run], "gradient / detection's"]]
    assert list(panels) == expected
    assert lines_of(panels["ld: ld"]) == {"level 0": 2.0, "level 1": 1.0, "detection": pytest.approx(0.1)}
    assert lines_of(panels["ld: gradient / detection's"]) == {"ld": 3.0}
    figure.draw_without_rendering()


def test_warnings_are_on_the_page_with_run_and_iteration(runs, tmp_path):
    page = Page(write_report(runs, tmp_path / "report.html", images=0))
    assert page.text.count("<h2>Weights of the distillation</h2>") == 1
    assert page.text.count("new: Iteration 20: frs_feature is &lt;300&gt; times the detection losses.") == 1
    assert page.text.count("data:image/png") == 2 and page.open == []


def test_runs_without_a_teacher_have_no_such_section(runs, tmp_path):
    page = Page(write_report(runs[:1], tmp_path / "report.html", images=0))
    assert "Weights of the distillation" not in page.text and page.text.count("data:image/png") == 1
