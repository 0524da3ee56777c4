"""The report: one file, needing nothing beside it, that says what the runs' own files say."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
import torch
from tiny_detectors import TINY, seeded_on_one_thread

from frs_train import checkpoint
from frs_train.config import DataConfig, DetectorConfig, DistillConfig, RunConfig, to_dict
from frs_train.detectors import build_detector
from frs_train.digits import make_digits
from frs_train.errors import UserError
from frs_train.report import method, read_run, write_report

CLASSES = [str(d) for d in range(10)]


@pytest.fixture(autouse=True)
def quiet():
    with seeded_on_one_thread():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return folder, make_digits(folder, train=0, val=4, size=64, seed=0)["val"]


def make_run(folder, data, ap, distill=None, finished=True):
    """A run folder as a training leaves it, three log lines long."""
    folder.mkdir()
    images, annotations = data[0] / "images", data[1]
    config = RunConfig(
        out=folder,
        detector=DetectorConfig(**TINY),
        data=DataConfig(val_annotations=annotations, val_images=images),
        distill=distill,
    )
    scores = {"AP": ap, "AP50": ap + 0.1, "AP75": ap / 2, "AP_S": ap, "AP_M": ap, "AP_L": None, "AR": 0.5}
    lines = []
    for step in (10, 20, 30):
        losses = {"classification": 1 / step, "bbox_regression": 2 / step}
        common = {
            "loss": 3 / step,
            "losses": losses,
            "lr": 0.1,
            "seconds_per_iteration": 0.25,
            "memory_mb": 123.0,
        }
        lines.append({"kind": "train", "iteration": step, **common})
    lines.append({"kind": "eval", "iteration": 30, **scores, "classes": dict.fromkeys(CLASSES, ap)})
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        detector = build_detector(config.detector, 10)
        content = {"config": to_dict(config), "classes": CLASSES, "model": detector.state_dict()}
        checkpoint.save(folder, 30, content, keep=1)
        result = {**scores, "classes": lines[-1]["classes"], "parameters": 1_234_567, "iterations": 30}
        (folder / "result.json").write_text(json.dumps(result))
    return folder


class Page(HTMLParser):
    """Tables as lists of rows of texts, the classes of their cells, and everything that is loaded from
    elsewhere."""

    def __init__(self, path):
        super().__init__()
        self.tables, self.marked, self.outside, self.open = [], [], [], []
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.open += [] if tag in ("meta", "img") else [tag]
        link = named.get("src") or named.get("href")
        self.outside += [link] if link and not link.startswith("data:") else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.marked += (
                [(len(self.tables[-1]) - 1, len(self.tables[-1][-1]) - 1)]
                if "best" in named.get("class", "")
                else []
            )

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"unbalanced {tag}"

    def handle_data(self, text):
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += text


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
def test_a_run_says_what_it_learns_by(tmp_path, data, distill, words):
    folder = make_run(tmp_path / "run", data, 0.4, distill, finished=False)
    assert method(read_run(folder, "run", "red")) == words


def test_report_says_what_the_runs_say(tmp_path, data):
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


def test_an_unfinished_run_is_shown_as_such(tmp_path, data):
    runs = [make_run(tmp_path / "done", data, 0.2), make_run(tmp_path / "going", data, 0.1, finished=False)]
    page = Page(write_report(runs, tmp_path / "report.html"))
    row = page.tables[0][2]
    assert row[0] == "going (unfinished)" and row[3] == "10.0" and "–" in row
    assert "No masks of going" in page.text


def test_runs_of_the_same_name_are_told_apart_and_names_are_escaped(tmp_path, data):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    runs = [make_run(tmp_path / side / "r<i>&", data, 0.2) for side in "xy"]
    page = Page(write_report(runs, tmp_path / "report.html", images=0))
    names = [row[0] for row in page.tables[0][1:]]
    assert names == [str(run) for run in runs]
    assert "r<i>" not in page.text and "r&lt;i&gt;&amp;" in page.text


def test_a_single_run_has_no_winner(tmp_path, data):
    page = Page(write_report([make_run(tmp_path / "a", data, 0.2)], tmp_path / "report.html", images=0))
    assert page.marked == [] and "Where the runs differ" not in page.text


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match="is no run folder"):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_missing_validation_data_leaves_the_rest(tmp_path, data):
    run = make_run(tmp_path / "a", data, 0.2)
    config = json.loads((run / "config.json").read_text())
    config["data"]["val_images"] = str(tmp_path / "gone")
    (run / "config.json").write_text(json.dumps(config))
    page = Page(write_report([run], tmp_path / "report.html"))
    assert "No masks of a" in page.text and "gone" in page.text
    assert page.tables[0][1][3] == "20.0"


def test_curves_follow_the_log(tmp_path, data):
    from frs_train.report import read_runs
    from frs_train.report_figures import curves

    figure = curves(read_runs([make_run(tmp_path / "a", data, 0.2)]))
    panels = {axis.get_title(loc="left"): axis for axis in figure.axes if axis.get_visible()}
    losses = {"loss", "loss: classification", "loss: bbox_regression"}
    assert set(panels) == losses | {"AP on validation, per cent", "seconds per iteration"}
    loss = panels["loss"].lines[0]
    assert loss.get_xdata().tolist() == [10, 20, 30]
    assert torch.allclose(torch.tensor(loss.get_ydata()), torch.tensor([0.3, 0.15, 0.1], dtype=torch.float64))
    assert panels["AP on validation, per cent"].lines[0].get_ydata().tolist() == [20.0]
