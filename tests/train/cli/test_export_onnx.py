"""`frs-train export --format onnx` and `eval` of the file."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from imports import ROOT
from PIL import Image
from tiny_detectors import TINY, tiny

from frs_train.cli import main as command_line
from frs_train.cli.export import ExportConfig, canvas_of, specimens_of
from frs_train.config import DataConfig, DetectorConfig, RunConfig
from frs_train.data.specimens import Specimens, from_folder
from frs_train.errors import UserError
from frs_train.options import to_dict
from frs_train.training import checkpoint

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)


def main(line):
    return command_line.main(line.split())


@pytest.fixture(scope="module")
def run(teacher, tmp_path_factory):
    """A checkpoint of the teacher with random class scores, and boxes of the size of a digit."""
    content = checkpoint.read(teacher, pytest.fail)
    weights = {name.removeprefix("model.head."): value for name, value in content["model"].items()}
    random = torch.Generator().manual_seed(0)
    weights["classification_head.cls_logits.weight"].normal_(0, 0.2, generator=random)
    weights["classification_head.cls_logits.bias"].zero_()
    weights["regression_head.bbox_reg.weight"].normal_(0, 0.01, generator=random)
    weights["regression_head.bbox_reg.bias"].fill_(0.4)
    path = tmp_path_factory.mktemp("lively") / "run.pt"
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The file of an export, and what the command printed."""
    out = tmp_path_factory.mktemp("onnx") / "student.onnx"
    command = f"{sys.executable} -m frs_train export {run} --format onnx --batch 1 --out {out}"
    done = subprocess.run(command.split(), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return out, done


def test_the_log_is_short_and_names_the_differences(exported):
    out, done = exported
    assert done.stdout == ""
    _, size, check, wrote = done.stderr.splitlines()
    assert size == "The network's input is 64 x 64 (height x width)."
    found = re.fullmatch(
        r"Checked on 5 pictures: (\d+) detections, largest difference of a box (\S+) px, of a score (\S+)\.",
        check,
    )
    assert int(found[1]) > 50 and float(found[2]) < 0.1 and float(found[3]) < 1e-3
    assert wrote == f"Wrote {out}: fcos, 10 classes, labels from 1."
    names = json.loads(out.with_name("student.onnx.json").read_text())["classes"]
    assert names == ["__background__", *"0123456789"]


def test_eval_of_the_file_equals_that_of_the_checkpoint(exported, run, digits, capsys):
    results = []
    for name in (run, exported[0]):
        assert main(f"eval {name} --annotations {digits}/val.json --images {digits}/images --workers 0") == 0
        results.append(json.loads(capsys.readouterr().out))
    wanted, found = results
    assert found["AP"] == pytest.approx(wanted["AP"], abs=1e-3)
    assert found["AR"] == pytest.approx(wanted["AR"], abs=1e-2) and wanted["AR"] > 0
    assert (
        found["max_detections"] == wanted["max_detections"]
        and found["classes"].keys() == wanted["classes"].keys()
    )


def test_a_file_runs_on_the_cpu_only(exported, digits, capsys):
    line = f"eval {exported[0]} --annotations {digits}/val.json --images {digits}/images --device cuda"
    assert main(line) == 2 and "ONNX models run on the CPU only" in capsys.readouterr().err
    line = f"visualize {exported[0]} --annotations {digits}/val.json --images {digits}/images --out x"
    assert main(line) == 2 and "is an ONNX file" in capsys.readouterr().err


def test_the_program_of_the_documentation(exported, run, digits, tmp_path):
    """It prints what the detector detects, here in a picture that has to be scaled up."""
    page = (ROOT / "docs/export.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "detect.py").write_text(program)
    file = sorted((digits / "images").iterdir())[0]
    Image.open(file).resize((41, 41)).save(tmp_path / "small.png")
    command = [sys.executable, tmp_path / "detect.py", exported[0], tmp_path / "small.png"]
    printed = subprocess.run(command, capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    rows = [line.split() for line in printed.stdout.splitlines()]
    detector, classes = checkpoint.restore(checkpoint.load(run))
    (found,) = detector.detect(from_folder(tmp_path).pictures)
    assert len(rows) == len(found["scores"]) > 10
    assert [float(row[1]) for row in rows] == pytest.approx(found["scores"].tolist(), abs=1e-3)
    assert [row[0] for row in rows[:5]] == [classes[label - 1] for label in found["labels"][:5].tolist()]
    for row, box in zip(rows[:5], found["boxes"][:5].tolist(), strict=True):
        assert [float(side) for side in row[2:]] == pytest.approx(box, abs=0.1)


def test_a_file_that_fails_the_check_is_not_written(run, tmp_path, monkeypatch, capsys):
    import onnx

    from frs_train.detectors import onnx_export

    export = onnx_export.onnx_model

    def wrong(*arguments):
        model = onnx.load_model_from_string(export(*arguments))
        layer = next(w for w in model.graph.initializer if w.name.endswith("cls_logits.weight"))
        layer.raw_data = (onnx.numpy_helper.to_array(layer) * 1.1).astype("float32").tobytes()
        return model.SerializeToString()

    monkeypatch.setattr(onnx_export, "onnx_model", wrong)
    line = f"export {run} --format onnx --batch 1 --height 32 --width 32 --out {tmp_path}/x.onnx"
    assert main(line) == 2
    text = capsys.readouterr().err
    assert "5 of 5 pictures are scaled down further" in text
    assert "does not detect what the checkpoint detects" in text and "No file is written" in text
    assert list(tmp_path.iterdir()) == []


class Lines:
    """A log that keeps its lines."""

    def __init__(self):
        self.said, self.warned = [], []
        self.say, self.warn = self.said.append, self.warned.append


def test_the_pictures_of_the_check(digits):
    """Those of --images, else validation images, else random ones with a warning that says why."""
    config = ExportConfig("RUN", "x.onnx", format="onnx")
    run = RunConfig("x", data=DataConfig(val_annotations=digits / "val.json", val_images=digits / "images"))
    classes, log = list("0123456789"), Lines()
    folder = specimens_of(replace(config, images=digits / "images"), run, classes, log)
    assert len(folder.sizes) == 17 and specimens_of(config, run, classes, log).sizes == [(64, 64)] * 5
    assert log.warned == []
    moved = replace(run, data=replace(run.data, val_images=digits / "moved"))
    for case, reason in (
        (None, "there are no validation images"),
        (moved, f"{digits / 'moved'} does not exist"),
    ):
        assert specimens_of(config, case, classes, log).sizes == []
        warning = log.warned.pop()
        assert "checked on random pictures" in warning and reason in warning


def test_the_size_of_the_input():
    config = ExportConfig("RUN", "x.onnx", format="onnx")
    detector, log = tiny("fcos", head_convs=0, min_size=(100,), max_size=200), Lines()
    photographs = Specimens([], [(480, 640), (640, 480), (600, 600)])
    assert canvas_of(config, detector, photographs, log) == (160, 160)
    assert canvas_of(config, detector, Specimens([], []), log) == (128, 128)
    assert not any("scaled down" in line for line in log.said)
    assert canvas_of(replace(config, height=128, width=160), detector, photographs, log) == (128, 160)
    assert "; 1 of 3 pictures are scaled down further than in training to fit." in log.said[-1]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_anything_runs(package, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(f"export no-such-run --format onnx --out {tmp_path}/x.onnx") == 2
    assert f"need the package {package}, which is not installed: pip install" in capsys.readouterr().err


def test_faster_rcnn_is_refused_before_its_pictures_are_read(teacher, tmp_path, capsys):
    content = checkpoint.read(teacher, pytest.fail)
    content["config"]["detector"] = to_dict(DetectorConfig(family="faster-rcnn", **TINY))
    content["model"] = tiny("faster-rcnn", num_classes=10).state_dict()
    torch.save(content, tmp_path / "two.pt")
    assert main(f"export {tmp_path}/two.pt --format onnx --out {tmp_path}/x.onnx") == 2
    assert "is a faster-rcnn, which cannot be exported as ONNX" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(out="x.onnx"), "--out is x.onnx, and --format is torch"),
        (dict(out="x.pt", format="onnx"), "--out is x.pt, and --format is onnx"),
        (dict(out="x.pt", batch=2), "--batch applies to --format onnx only"),
        (dict(out="x.pt", images="i"), "--images applies to --format onnx only"),
        (dict(out="x.onnx", format="onnx", height=64), "--height and --width are given together"),
        (dict(out="x.onnx", format="onnx", height=300, width=64), "--height is 300, .* 288 or 320"),
        (dict(out="x.onnx", format="onnx", height=32, width=7), "--width is 7, .* Choose 32"),
    ],
)
def test_contradicting_options_are_refused(options, match):
    with pytest.raises(UserError, match=match):
        ExportConfig("RUN", **options)
