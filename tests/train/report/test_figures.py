"""The figures of the report: curves of the runs and their masks."""

import json

import pytest
import torch
from tiny_reports import CLASSES, Page, make_run, spoilt

from frs_train.report.figures import curves
from frs_train.report.page import write_report
from frs_train.report.runs import read_runs
from frs_train.training import checkpoint


def test_names_are_drawn_unchanged(tmp_path, data):
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


def test_masks_of_runs_with_other_classes_are_left_out(tmp_path, data):
    runs = [make_run(tmp_path / name, data, 0.2) for name in "ab"]
    other = checkpoint.load(checkpoint.checkpoints(runs[1])[0])
    checkpoint.save(runs[1], 30, {**other, "classes": [*CLASSES[:9], "ten"]}, keep=1)
    page = Page(write_report(runs, tmp_path / "report.html", images=1))
    assert "No masks of b: its classes are not those" in page.text and page.text.count("data:image/png") == 2


def test_curves_show_the_metrics(tmp_path, data):
    figure = curves(read_runs([make_run(tmp_path / "a", data, 0.2)]))
    panels = {axis.get_title(loc="left"): axis for axis in figure.axes if axis.get_visible()}
    losses = {"loss", "loss: classification", "loss: bbox_regression"}
    assert set(panels) == losses | {"AP on validation, per cent", "seconds per iteration"}
    loss = panels["loss"].lines[0]
    assert loss.get_xdata().tolist() == [10, 20, 30]
    assert torch.allclose(torch.tensor(loss.get_ydata()), torch.tensor([0.3, 0.15, 0.1], dtype=torch.float64))
    assert panels["AP on validation, per cent"].lines[0].get_ydata().tolist() == [20.0]
