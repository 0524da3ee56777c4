"""The page of a report: one self-contained HTML file with the values of the runs."""

import base64
import json
import re

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from tiny_reports import CLASSES, Page, make_run, spoilt

from frs_train.config import DistillConfig
from frs_train.report.page import method, write_report
from frs_train.report.runs import read_run


@pytest.mark.parametrize(
    ("distill", "words"),
    [
        (None, "data alone"),
        (DistillConfig(method="none"), "data alone"),
        (DistillConfig(method="none", teacher="a/t", inherit_head=False), "data alone"),
        (DistillConfig(method="none", teacher="a/t"), "data alone (head from t if it fits)"),
        (DistillConfig(method="frs-head", teacher="a/t"), "frs-head from t"),
    ],
)
def test_method_of_a_run_is_shown(tmp_path, data, distill, words):
    folder = make_run(tmp_path / "run", data, 0.4, distill, finished=False)
    assert method(read_run(folder, "run", "red")) == words


def test_report_has_the_values_of_the_runs(tmp_path, data):
    teacher = make_run(tmp_path / "teacher", data, 0.4)
    student = make_run(tmp_path / "student", data, 0.3, DistillConfig(teacher=str(teacher)))
    page = Page(write_report([teacher, student], tmp_path / "report.html"))
    head, first, second = page.tables[0]
    assert head[:5] == ["run", "detector", "learns by", "AP", "AP50"]
    assert first[0] == "teacher" and first[2] == "data alone" and first[3:6] == ["40.0", "50.0", "20.0"]
    assert second[0] == "student" and second[2] == "frs from teacher" and second[3] == "30.0"
    assert first[head.index("AP_L")] == "–"
    assert first[head.index("params, M")] == "1.23"
    assert (1, head.index("AP")) in page.marked and (2, head.index("AP")) not in page.marked
    assert page.tables[1][0] == ["run", *CLASSES] and page.tables[1][2][1:] == ["30.0"] * 10
    options = {row[0]: row[1:] for row in page.tables[2][1:]}
    assert options["distill.method"] == ["–", "frs"] and "detector.backbone" not in options


def test_report_is_one_file_with_its_pictures_inside(tmp_path, data):
    runs = [make_run(tmp_path / name, data, 0.2) for name in ("a", "b")]
    page = Page(write_report(runs, tmp_path / "report.html", images=2))
    assert page.outside == [] and page.open == []
    assert "<script" not in page.text and "http" not in page.text
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page.text)
    assert len(pictures) == 1 + 2, "curves, and one picture an image"
    assert all(base64.b64decode(data).startswith(b"\x89PNG") for data in pictures)


def test_unfinished_run_is_marked(tmp_path, data):
    runs = [make_run(tmp_path / "done", data, 0.2), make_run(tmp_path / "going", data, 0.1, finished=False)]
    page = Page(write_report(runs, tmp_path / "report.html"))
    row = page.tables[0][2]
    assert row[0] == "going (unfinished)" and row[3] == "10.0" and "–" in row
    assert "No masks of going" in page.text


def test_runs_of_the_same_name_have_paths_and_names_are_escaped(tmp_path, data):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    runs = [make_run(tmp_path / side / "r<i>&", data, 0.2) for side in "xy"]
    page = Page(write_report(runs, tmp_path / "report.html", images=0))
    names = [row[0] for row in page.tables[0][1:]]
    assert names == [str(run) for run in runs]
    assert "r<i>" not in page.text and "r&lt;i&gt;&amp;" in page.text


def test_single_run_has_no_best_values(tmp_path, data):
    page = Page(write_report([make_run(tmp_path / "a", data, 0.2)], tmp_path / "report.html", images=0))
    assert page.marked == [] and "Where the runs differ" not in page.text


def test_missing_validation_data_leaves_out_only_the_masks(tmp_path, data):
    run = make_run(tmp_path / "a", data, 0.2)
    config = json.loads((run / "config.json").read_text())
    config["data"]["val_images"] = str(tmp_path / "gone")
    (run / "config.json").write_text(json.dumps(config))
    page = Page(write_report([run], tmp_path / "report.html"))
    assert "No masks of a" in page.text and "gone" in page.text
    assert page.tables[0][1][3] == "20.0"


def test_the_results_fit_a_page_of_1200_pixels(tmp_path, data):
    """The columns that do not wrap leave room for the three columns that do, even in a wide font."""
    font = FontProperties("DejaVu Sans")
    path = make_run(tmp_path / ("run" * 40), data, 0.99)
    numbers = {"AP": 1.0, "AP50": 1.0, "AP75": 1.0, "AP_S": 1.0, "AP_M": 1.0, "AP_L": 1.0, "AR": 1.0}
    large = numbers | {"parameters": 136_000_000, "memory_mb": 79_000.0, "seconds_per_iteration": 12.345}
    spoilt(path, "result.json", lambda text: json.dumps(json.loads(text) | large))
    page = Page(write_report([path], tmp_path / "report.html", images=0))
    assert (
        "td:nth-child(-n+3) { white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }" in page.text
    )
    assert ".results th { white-space: normal;" in page.text
    head, row = page.tables[0]
    padding = 2 * 0.55 * 16
    width = 3 * (7 * 16 + padding)
    for title, cell in zip(head[3:], row[3:], strict=True):
        longest = max((*title.split(), cell), key=len)
        width += TextPath((0, 0), longest, size=0.85 * 16, prop=font).get_extents().width + padding
    assert width < 1200 - 2 * 16
