"""The benchmark of detectors: what is compared, the tables, the picture and the command."""

import json
from dataclasses import replace

import pytest
import torch
from matplotlib.text import Annotation
from rich.console import Console
from tiny_reports import CLASSES, make_run, spoilt
from tiny_runs import quiet_fit, run_config

from frs_train.cli.main import main
from frs_train.errors import UserError
from frs_train.evaluation.latency import TURNS, Latency
from frs_train.log import Log
from frs_train.report.benchmark import measure
from frs_train.report.benchmark.candidates import Candidate, candidates, canvas_of
from frs_train.report.benchmark.figure import extent, trade_off
from frs_train.report.benchmark.measure import Benchmark, Row, benchmark, compared
from frs_train.report.benchmark.models import Score, open_models
from frs_train.report.benchmark.tables import as_json, as_markdown, as_table, cells, columns, label, notes
from frs_train.training import checkpoint

CPU = torch.device("cpu")


def measured(*sources, **options) -> Benchmark:
    options = {"seconds": 1e-3, "device": CPU, "log": Log(quiet=True), **options}
    return benchmark([str(source) for source in sources], **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """A run folder with the result of a training and its checkpoint."""
    return make_run(tmp_path_factory.mktemp("runs") / "teacher", data, 0.4)


def test_rows_have_the_figures_of_the_runs(run, tmp_path, data):
    student = make_run(tmp_path / "student", data, 0.3)
    result = measured(run, student)
    first, second = result.rows
    assert [row.candidate.name for row in result.rows] == ["teacher", "student"]
    assert first.candidate.score == Score(0.4, str(data[1])) and second.candidate.score.ap == 0.3
    assert (first.candidate.size, first.candidate.runtime) == (64, "torch")
    assert first.smaller == first.faster == second.smaller == 1
    assert second.faster == pytest.approx(first.latency.median / second.latency.median)
    assert first.latency.calls >= TURNS and 0 < first.latency.p10 <= first.latency.median <= first.latency.p90
    assert result.machine["device"] == "cpu" and result.machine["threads"] == torch.get_num_threads()


def test_a_score_belongs_to_the_size_of_the_evaluation(run):
    rows = measured(run, sizes=[64, 96]).rows
    assert [(row.candidate.size, row.candidate.score is None) for row in rows] == [(64, False), (96, True)]
    assert rows[1].candidate.flops > 2 * rows[0].candidate.flops, "2.25 times the pixels"
    assert rows[0].candidate.parameters == rows[1].candidate.parameters
    assert rows[1].faster == 1, "each size has a first row of its own"


def test_detection_gets_a_batch_of_images_of_the_size(run, monkeypatch):
    seen = []
    real = measure.candidates

    def watched(model, size, runtimes, image):
        seen.append(tuple(image.shape))
        (one,) = real(model, size, runtimes, image)
        return [replace(one, detect=lambda images: seen.append([i.shape for i in images]))]

    monkeypatch.setattr(measure, "candidates", watched)
    measured(run, sizes=[96], batch_size=3)
    assert seen[0] == (3, 96, 96)
    assert len(seen) > 2 * TURNS and all(call == [(3, 96, 96)] * 3 for call in seen[1:])


def test_the_measured_detector_works_at_the_size(run):
    (model,) = open_models([str(run)], CPU, Log(quiet=True))
    before = model.detector.config
    image = torch.rand(3, 50, 50)
    at_96 = candidates(model, 96, ["torch"], image)[0].detect.__self__
    assert at_96.prepare([image], None, None)[0].tensors.shape[-2:] == (96, 96)
    assert model.detector.config is before
    assert model.detector.prepare([image], None, None)[0].tensors.shape[-2:] == (64, 64)
    assert not at_96.training and at_96.model is model.detector.model


@pytest.mark.parametrize(
    "change", [lambda r: {**r, "iterations": 20}, lambda r: {**r, "AP": None}], ids=["other", "none"]
)
def test_score_of_another_checkpoint_or_none_is_not_shown(tmp_path, data, change):
    folder = make_run(tmp_path / "a", data, 0.2)
    spoilt(folder, "result.json", lambda text: json.dumps(change(json.loads(text))))
    assert measured(folder).rows[0].candidate.score is None


def test_checkpoint_files_have_no_score_and_equal_names_become_paths(run, tmp_path, data):
    (tmp_path / "sub").mkdir()
    other = make_run(tmp_path / "sub" / "teacher", data, 0.2)
    (file,) = checkpoint.checkpoints(run)
    rows = measured(run, other, file).rows
    assert [row.candidate.name for row in rows] == [str(run), str(other), file.name]
    assert rows[2].candidate.score is None


@pytest.mark.parametrize(
    ("source", "words"),
    [("nothing", "nothing does not exist"), ("torchvision:resnet18", "torchvision:resnet18 is unknown")],
)
def test_source_that_cannot_be_read_is_named(source, words):
    with pytest.raises(UserError, match=words):
        measured(source)


def test_run_without_checkpoint_is_named(tmp_path, data):
    folder = make_run(tmp_path / "going", data, 0.2, finished=False)
    with pytest.raises(UserError, match="going has no checkpoint"):
        measured(folder)


def test_size_above_the_limit_of_the_detector_is_refused_before_anything_is_measured(run, monkeypatch):
    monkeypatch.setattr(measure, "measure_in_turns", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError, match="--sizes has 160.*teacher.*128"):
        measured(run, sizes=[64, 160])


def row(name="m", ap=0.5, ms=10.0, parameters=1_000_000, spread=0.1, **changes) -> Row:
    score = None if ap is None else Score(ap, "some/where/digits/val.json")
    one = Candidate(name, "torch", 96, parameters, 4 * parameters, 2 * 10**9, score, print)
    latency = Latency(ms / 1e3, ms / 1e3 * (1 - spread / 2), ms / 1e3 * (1 + spread / 2), 50)
    return Row(replace(one, **changes), latency, 1.0, 1.0)


MACHINE = {"device": "cpu", "processor": "P", "cores": 2, "threads": 1, "torch": "2"}


def result_of(*rows, batch_size=1) -> Benchmark:
    return Benchmark(MACHINE, batch_size, 5.0, list(rows))


def test_comparison_with_the_first_row():
    rows = [row(ms=30.0, parameters=8_000_000), row(ms=10.0, parameters=2_000_000)]
    found = compared([r.candidate for r in rows], [r.latency for r in rows])
    assert [(r.smaller, round(r.faster, 6)) for r in found] == [(1.0, 1.0), (4.0, 3.0)]


def test_cells_and_notes():
    result = result_of(row("teacher", 0.784, 31.61), row("a|b\n", None))
    title = dict(zip(columns(result), cells(result.rows[0]), strict=True))
    assert title == {
        "model": "teacher", "size": "96", "params, M": "1.00", "smaller": "1.0x", "MB": "4.0",
        "GFLOPs": "2.00", "ms": "31.6", "p10-p90": "30.0-33.2", "faster": "1.0x", "AP": "78.4",
    }  # fmt: skip
    assert cells(result.rows[1])[-1] == "-"
    assert notes(result)[0] == "Measured on P (2 cores), 1 thread, torch 2, device cpu."
    assert notes(result)[-1] == "AP of teacher: at the end of the training, on digits/val.json."
    lines = as_markdown(result).splitlines()
    assert lines[0].startswith("| model | size |") and lines[3].startswith("| a\\|b\\n | 96 |")
    assert "ms, batch of 8" in columns(result_of(row(), batch_size=8))


def test_table_fits_a_terminal_of_80_columns():
    wide = row("student-" * 3, 1.0, 1234.5, 123_000_000)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(as_table(result_of(replace(wide, smaller=10.0, faster=10.0))))
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(cell in text for cell in cells(wide)[2:3] + cells(wide)[6:8])


def test_json_has_all_figures():
    record = json.loads(json.dumps(as_json(result_of(row(ms=20.0), row(ap=None), batch_size=4))))
    assert record["machine"] == MACHINE and record["batch_size"] == 4
    first, second = record["rows"]
    assert first["latency_ms"] == pytest.approx({"median": 20.0, "p10": 19.0, "p90": 21.0})
    assert first["images_per_second"] == pytest.approx(200) and first["calls"] == 50
    assert (first["ap"], first["validation"]) == (0.5, "some/where/digits/val.json")
    assert second["ap"] is second["validation"] is None


def test_no_picture_without_an_ap():
    assert trade_off(result_of(row(ap=None))) is None


@pytest.mark.parametrize(
    "points",
    [
        [(0.5, 10.0, 10**6)],
        [(0.7, 30.0, 30 * 10**6), (0.55, 10.0, 10**6), (0.55, 10.0, 10**6), (0.56, 11.0, 10**6)],
        [(0.0, 1.0, 1), (1.0, 500.0, 10**9), (1.0, 480.0, 10**9)],
    ],
    ids=["one", "equal students", "extremes"],
)
def test_labels_are_whole_and_cover_no_other(points):
    rows = [row(f"model-{i}", *values) for i, values in enumerate(points)]
    figure = trade_off(result_of(*rows))
    figure.draw_without_rendering()
    labels = [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    assert sorted(text.get_text().split("\n")[0] for text in labels) == sorted(r.candidate.name for r in rows)
    boxes = [extent(text) for text in labels]
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_names_are_drawn_unchanged():
    figure = trade_off(result_of(row(r"$\frac{1}$")))
    (text,) = figure.axes[0].texts
    assert text.get_text().startswith(r"$\frac{1}$") and not text.get_parse_math()


def test_command_writes_its_files(run, tmp_path, capsys):
    line = f"benchmark {run} --seconds 0.001 --sizes 64 --threads 1 --device cpu --out {tmp_path}/out"
    assert main(line.split()) == 0
    assert "teacher" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert record["rows"][0]["model"] == "teacher"
    assert (tmp_path / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert "| teacher | 64 |" in (tmp_path / "out" / "benchmark.md").read_text()


def test_command_without_runs(capsys):
    assert main(["benchmark"]) == 2
    assert capsys.readouterr().err.startswith("frs-train: RUNS is missing: ")


def test_noisy_times_are_told(run, monkeypatch):
    noisy = Latency(0.1, 0.05, 0.15, 10)
    monkeypatch.setattr(measure, "measure_in_turns", lambda calls, *_: [noisy for _ in calls])
    log = Log(quiet=True)
    told = []
    monkeypatch.setattr(log, "warn", told.append)
    measured(run, log=log)
    assert len(told) == 1 and "spread by up to 100% of their median" in told[0]


@pytest.fixture(scope="module")
def onnx_file(run, tmp_path_factory):
    """An ONNX file of the run for images of 64 pixels, with a wide input."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    from frs_train.detectors.onnx_export import onnx_model

    detector, classes = checkpoint.read_detector(str(run), Log(quiet=True))
    file = tmp_path_factory.mktemp("onnx") / "student.onnx"
    file.write_bytes(onnx_model(detector, classes, (64, 96)))
    return file


def test_a_run_is_measured_in_both_runtimes(run, onnx_file, monkeypatch):
    from frs_train.detectors import onnx_export

    exports = []  # recorded instead of made: an export takes seconds
    monkeypatch.setattr(
        onnx_export, "onnx_model", lambda *arguments: exports.append(arguments) or onnx_file.read_bytes()
    )
    first, second = measured(run, sizes=[64], runtimes=["torch", "onnx"]).rows
    ((exported, classes, canvas),) = exports
    assert (exported.config.min_size, exported.training, canvas) == ((64,), False, (64, 64))
    assert classes == CLASSES
    assert [label(r) for r in (first, second)] == ["teacher", "teacher (onnx)"]
    assert second.candidate.score == first.candidate.score and second.smaller == 1
    assert second.candidate.weight_bytes != first.candidate.weight_bytes, "of the file"
    images = [torch.rand(3, 64, 64)]
    (expected,), (found,) = first.candidate.detect(images), second.candidate.detect(images)
    assert len(expected["boxes"]) == len(found["boxes"])
    assert torch.allclose(expected["scores"], found["scores"], atol=1e-4)


def test_an_onnx_file_is_measured_as_it_is(run, onnx_file, monkeypatch):
    log, told = Log(quiet=True), []
    monkeypatch.setattr(log, "say", told.append)
    result = measured(run, onnx_file, sizes=[64], log=log)
    assert told == [f"{onnx_file} always runs on 64 x 96 pixels, whatever the image."]
    second = result.rows[1]
    assert (label(second), second.candidate.runtime) == ("student.onnx", "onnx")
    assert second.candidate.weight_bytes == onnx_file.stat().st_size
    assert dict(zip(columns(result), cells(second), strict=True)).items() >= {
        ("params, M", "-"), ("smaller", "-"), ("GFLOPs", "-"), ("AP", "-")
    }  # fmt: skip
    assert "onnxruntime" in result.machine and "onnxruntime" in notes(result)[0]
    with pytest.raises(UserError, match="--sizes has 96.*student.onnx scales images to 64"):
        measured(run, onnx_file, sizes=[96])


def test_run_that_cannot_be_exported_is_named(digits, tmp_path, onnx_file):
    quiet_fit(run_config(digits, tmp_path / "two", iterations=1, detector={"family": "faster-rcnn"}))
    with pytest.raises(UserError, match="--runtime onnx, .*two: .*faster-rcnn"):
        measured(tmp_path / "two", runtimes=["onnx"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("RUN --runtime torch torch", "--runtime needs torch, onnx or both"),
        ("RUN --runtime onnx --device cuda", "--device is cuda, and ONNX models run on the CPU only"),
        ("a.onnx --device cuda", "--device is cuda, and ONNX models run on the CPU only"),
        ("gone.onnx", "gone.onnx"),
    ],
)
def test_wrong_runtimes_and_files_are_refused(options, words, capsys):
    assert main(["benchmark", *options.split()]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


@pytest.mark.parametrize(("size", "side"), [(32, 32), (33, 64), (800, 800), (600, 608)])
def test_input_of_an_export_is_a_multiple_of_32(size, side):
    assert canvas_of(size) == (side, side)


def test_an_unknown_runtime_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "RUN", "--runtime", "tensorrt"])
    assert stopped.value.code == 2 and "tensorrt" in capsys.readouterr().err
