"""Run folders for reports, written without a training, and a reader of the HTML page."""

import json
from html.parser import HTMLParser

from tiny_detectors import TINY

from frs_train.config import DataConfig, DetectorConfig, RunConfig
from frs_train.detectors import build_detector
from frs_train.options import to_dict
from frs_train.training import checkpoint

CLASSES = [str(d) for d in range(10)]


def make_run(folder, data, ap, distill=None, finished=True):
    """Writes a run folder like a training with three lines of metrics."""
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
    """Reads a page: tables as lists of rows of texts, cells marked as best, and links to other files."""

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


def spoilt(run, file, change):
    """Changes the text of a file of a run."""
    (run / file).write_text(change((run / file).read_text()))
    return run
