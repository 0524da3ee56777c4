"""The report: one file, needing nothing beside it, that says what the runs' own files say."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from tiny_detectors import TINY, seeded_on_one_thread

from frs_train.config import DataConfig, DetectorConfig, DistillConfig, RunConfig
from frs_train.data.digits import make_digits
from frs_train.detectors import build_detector
from frs_train.errors import UserError
from frs_train.options import to_dict
from frs_train.report.figures import curves
from frs_train.report.page import class_table, differences, full_config, method, results_table, write_report
from frs_train.report.runs import read_run, read_runs
from frs_train.training import checkpoint

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
    with pytest.raises(UserError, match="is not a run folder"):
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


def spoilt(run, file, change):
    """Changes the text of a run's file."""
    (run / file).write_text(change((run / file).read_text()))
    return run


def without_detector(text):
    return json.dumps({key: value for key, value in json.loads(text).items() if key != "detector"})


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("result.json", lambda text: text[:-20], "result.json is not what frs-train writes"),
        ("result.json", lambda _: "null", "result.json .*the whole"),
        ("result.json", lambda text: text.replace('"AR": 0.5', '"AR": "x"'), "result.json .*AR: .*number"),
        ("metrics.jsonl", lambda text: text.replace("\n", "\nhello\n", 1), "metrics.jsonl, line 2 "),
        ("metrics.jsonl", lambda text: '{"kind": "test", "iteration": 3}\n' + text, "metrics.jsonl, line 1 "),
        ("metrics.jsonl", lambda text: text.replace('"loss": 0.15', '"loss": null'), "line 2 .*loss"),
        ("metrics.jsonl", lambda text: text.replace("0.15", "NaN"), "line 2 .*loss: .*finite"),
        ("config.json", without_detector, "config.json .*detector: Field required"),
        ("config.json", lambda text: text[:50], "config.json is not what"),
    ],
)
def test_a_file_that_no_run_wrote_is_named(tmp_path, data, file, change, words):
    run = spoilt(make_run(tmp_path / "a", data, 0.2), file, change)
    with pytest.raises(UserError, match=words) as error:
        write_report([run], tmp_path / "report.html", images=0)
    assert str(run / file) in str(error.value) and not (tmp_path / "report.html").exists()


def test_a_line_that_is_being_written_is_left_out(tmp_path, data):
    run = spoilt(make_run(tmp_path / "a", data, 0.2), "metrics.jsonl", lambda text: text + '{"kind": "tr')
    assert len(read_runs([run])[0].train) == 3


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["config.json", "metrics.jsonl", "result.json"]), st.data())
def test_only_user_errors_leave_a_damaged_run_folder(sound, file, draw):
    """A value of it is another, or a piece of it is missing or replaced by bytes."""
    text = sound[file]
    lines = text.splitlines(keepends=True) if file == "metrics.jsonl" else [text]
    number = draw.draw(st.integers(0, len(lines) - 1))
    if draw.draw(st.booleans()):
        record = json.loads(lines[number])
        inside = record.get(draw.draw(st.sampled_from(sorted(record))))
        place = inside if isinstance(inside, dict) and inside and draw.draw(st.booleans()) else record
        place[draw.draw(st.sampled_from(sorted(place)))] = draw.draw(JUNK)
        lines[number] = json.dumps(record) + "\n"
        raw = "".join(lines).encode()
    else:
        first, last = sorted(draw.draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
        raw = text[:first].encode() + draw.draw(st.binary(max_size=3)) + text[last:].encode()
    folder = sound["folder"]
    (folder / file).write_bytes(raw)
    try:
        runs = read_runs([folder])
        for show in (results_table, class_table, differences, lambda runs: full_config(runs[0])):
            show(runs).encode()
    except UserError as error:
        assert file in str(error)
    finally:
        (folder / file).write_text(text)


@pytest.fixture(scope="module")
def sound(tmp_path_factory, data):
    """A run folder that is as it should be, and the text of its files."""
    folder = make_run(tmp_path_factory.mktemp("sound") / "a", data, 0.2)
    return {"folder": folder} | {path.name: path.read_text() for path in folder.glob("*.json*")}


def test_names_are_drawn_as_they_are(tmp_path, data):
    names = [r"$\frac{1}$", "_hidden", "a\nb"]
    figure = curves(read_runs([make_run(tmp_path / name, data, 0.2) for name in names]))
    (legend,) = figure.legends
    texts = legend.get_texts()
    assert [text.get_text() for text in texts] == [names[0], "_hidden", "a\\nb"]
    assert not any(text.get_parse_math() for text in texts)


def losses(*values):
    def change(text):
        lines = [json.loads(line) for line in text.splitlines()]
        for line, value in zip(lines, values, strict=False):
            line |= {"loss": value, "losses": {"part": value}}
        return "".join(json.dumps(line) + "\n" for line in lines)

    return change


@pytest.mark.parametrize(
    ("values", "scale"),
    [((3.0, 2.0, 1.0), "linear"), ((0.0, 2.0, 1.0), "linear"),
     ((90.0, 3.0, 0.1), "log"), ((0.0, 90.0, 0.1), "symlog")],
)  # fmt: skip
def test_a_loss_that_spans_decades_has_a_logarithmic_axis(tmp_path, data, values, scale):
    run = spoilt(make_run(tmp_path / "a", data, 0.2), "metrics.jsonl", losses(*values))
    figure = curves(read_runs([run]))
    for axis in figure.axes[:2]:
        assert axis.get_yscale() == scale
        low, high = axis.get_ylim()
        assert low <= min(values) and max(values) <= high
    assert figure.axes[2].get_yscale() == "linear"  # AP
    figure.draw_without_rendering()


def test_the_results_fit_a_page_of_1200_pixels(tmp_path, data):
    """The columns that do not break, in a wide font, leave room for the three of names, which do."""
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


def test_masks_of_runs_with_other_classes_are_left_out(tmp_path, data):
    runs = [make_run(tmp_path / name, data, 0.2) for name in "ab"]
    other = checkpoint.load(checkpoint.checkpoints(runs[1])[0])
    checkpoint.save(runs[1], 30, {**other, "classes": [*CLASSES[:9], "ten"]}, keep=1)
    page = Page(write_report(runs, tmp_path / "report.html", images=1))
    assert "No masks of b: its classes are not those" in page.text and page.text.count("data:image/png") == 2


def test_curves_follow_the_log(tmp_path, data):
    figure = curves(read_runs([make_run(tmp_path / "a", data, 0.2)]))
    panels = {axis.get_title(loc="left"): axis for axis in figure.axes if axis.get_visible()}
    losses = {"loss", "loss: classification", "loss: bbox_regression"}
    assert set(panels) == losses | {"AP on validation, per cent", "seconds per iteration"}
    loss = panels["loss"].lines[0]
    assert loss.get_xdata().tolist() == [10, 20, 30]
    assert torch.allclose(torch.tensor(loss.get_ydata()), torch.tensor([0.3, 0.15, 0.1], dtype=torch.float64))
    assert panels["AP on validation, per cent"].lines[0].get_ydata().tolist() == [20.0]
