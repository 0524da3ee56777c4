"""The command line: every subcommand on a tiny run, recipes as defaults, and the demo from end to end."""

import json
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tiny_detectors import tiny
from tiny_runs import quiet_fit, run_config

from frs_train import demo
from frs_train.cli.main import main, parse
from frs_train.errors import UserError
from frs_train.log import Log
from frs_train.recipes import RECIPES


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for command in ("train", "distill", "eval", "visualize", "demo", "make-digits", "export", "report"):
        assert command in text


@pytest.mark.parametrize("unbuffered", ["", "-u"])
def test_a_reader_that_leaves_early_is_no_error(unbuffered, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    command = f"{shlex.quote(sys.executable)} {unbuffered} -m frs_train train --help | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("usage: frs-train train") and done.stderr == ""


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--out", "x", "--nonsense", "1"])
    assert stopped.value.code == 2 and "--nonsense" in capsys.readouterr().err


def test_the_documented_command_line():
    data = "--train-annotations a --train-images b --val-annotations c --val-images d"
    _, config = parse(
        f"distill {data} --detector retinanet --backbone resnet18 --teacher RUN --feat-weight 0.1 "
        "--head-weight 0.2 --warmup-iters 3 --out RUN2".split()
    )
    assert (config.distill.teacher, config.distill.feat_weight, config.distill.head_weight) == (
        "RUN",
        0.1,
        0.2,
    )
    assert config.distill.warmup_iters == 3 and config.detector.family == "retinanet"


def test_a_recipe_gives_the_student_to_distill_and_the_teacher_to_train():
    name = "gfl-r101-r50-1x"
    _, student = parse(f"distill --out x --recipe {name}".split())
    _, teacher = parse(["train", "--out", "x", f"--recipe={name}"])
    assert student.detector.backbone == "resnet50" and teacher.detector.backbone == "resnet101"
    assert (student.distill.feat_weight, student.distill.head_weight) == (0.1, 0.05)
    assert student.train.epochs == 12 and student.recipe == name


def test_options_override_a_recipe():
    _, config = parse("distill --out x --recipe fcos-r101-r50-2x --batch-size 4 --feat-weight 7".split())
    assert config.train.batch_size == 4 and config.distill.feat_weight == 7
    assert config.train.lr_batch == 16 and config.distill.head_weight == 0.05


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_the_papers(name):
    recipe = RECIPES[name]
    weights = {
        "retinanet": (0.005, 0.02),
        "gfl": (0.1, 0.05),
        "fcos": (0.01, 0.05),
        "faster-rcnn": (0.002, 0.1),
    }
    assert (recipe.distill.feat_weight, recipe.distill.head_weight) == weights[recipe.student.family]
    assert recipe.train.epochs == {"1x": 12, "2x": 24}[name[-2:]]
    assert recipe.distill.warmup_iters == 500 and recipe.distill.adapter == "conv3x3"
    assert replace(recipe.teacher, backbone="resnet50") == recipe.student
    assert recipe.student.min_size[-1] == 800 and recipe.student.max_size == 1333


def test_unknown_recipe(capsys):
    assert main(["train", "--out", "x", "--recipe", "best"]) == 2
    assert "retinanet-r101-r50-2x" in capsys.readouterr().err


def test_eval_prints_json(digits, teacher, capsys):
    files = f"--annotations {digits}/val.json --images {digits}/images --device cpu --workers 0"
    assert main(f"eval {teacher} {files}".split()) == 0
    found = json.loads(capsys.readouterr().out)
    result = json.loads((teacher / "result.json").read_text())
    assert found["AP"] == pytest.approx(result["AP"]) and found["classes"].keys() == result["classes"].keys()


def test_visualize_and_report(digits, teacher, tmp_path):
    files = f"--annotations {digits}/val.json --images {digits}/images --device cpu"
    assert main(f"visualize {teacher} {files} --out {tmp_path}/masks --limit 2".split()) == 0
    assert len(list((tmp_path / "masks").glob("*.png"))) == 2
    assert main(f"report {teacher} --out {tmp_path}/report.html --images 0".split()) == 0
    assert "<html" in (tmp_path / "report.html").read_text()


def test_export_is_loaded_strictly_by_torchvision(digits, tmp_path):
    quiet_fit(
        run_config(
            digits, tmp_path / "run", iterations=1, detector={"family": "retinanet", "head_norm": "none"}
        )
    )
    assert main(f"export {tmp_path}/run --out {tmp_path}/student.pt".split()) == 0
    state = torch.load(tmp_path / "student.pt", weights_only=True)
    classes = json.loads((tmp_path / "student.pt.json").read_text())["classes"]
    assert classes[0] == "__background__" and len(classes) == 11
    plain = tiny(
        "retinanet", num_classes=11, head_norm="none"
    ).model  # torchvision's RetinaNet, nothing of ours
    assert type(plain).__module__.startswith("torchvision.")
    plain.load_state_dict(state, strict=True)


def test_export_of_a_family_that_torchvision_lacks(digits, tmp_path, capsys):
    quiet_fit(run_config(digits, tmp_path / "run", iterations=1, detector={"family": "gfl"}))
    assert main(f"export {tmp_path}/run --out {tmp_path}/student.pt".split()) == 2
    assert "no GFL" in capsys.readouterr().err and not (tmp_path / "student.pt").exists()


def test_make_digits(tmp_path):
    assert main(f"make-digits {tmp_path}/d --train 2 --val 1 --size 64 --seed 3".split()) == 0
    assert len(json.loads((tmp_path / "d" / "train.json").read_text())["images"]) == 2


@pytest.fixture
def small_demo(monkeypatch):
    made = demo.digits
    monkeypatch.setattr(
        demo, "digits", lambda folder, **options: made(folder, **{**options, "train": 16, "val": 6})
    )
    monkeypatch.setattr(demo, "STUDENT_TRAIN", replace(demo.STUDENT_TRAIN, threads=1, log_every=1))


def test_the_demo_leaves_table_curves_masks_and_report(small_demo, tmp_path):
    results = demo.demo(tmp_path, 2, 0, Log(quiet=True))
    assert results["teacher"]["AP"] > 0.3 > results["student"]["AP"]
    assert [r["method"] for r in (results["student"], results["student-frs"])] == ["none", "frs"]
    table = (tmp_path / "results.md").read_text()
    assert all(
        name in table for name in ("teacher", "student", "student-frs", "mAP", "AP_S", "on this run FRS")
    )
    for name in ("curves.png", "report.html", "results.json", "student-frs/metrics.jsonl"):
        assert (tmp_path / name).stat().st_size > 0
    assert len(list((tmp_path / "masks").glob("*.png"))) == 4
    again = demo.demo(tmp_path, 2, 0, Log(quiet=True))  # nothing is trained twice
    assert again == results


@pytest.mark.parametrize(("gain", "word"), [(0.02, "helped"), (0.0, "no difference"), (-0.02, "hurt")])
def test_the_demo_says_what_happened(gain, word):
    results = {"student": {"AP": 0.3}, "student-frs": {"AP": 0.3 + gain}}
    assert word in demo.compare(results)


def test_packing_a_teacher_keeps_only_what_detects(digits, teacher, tmp_path):
    path = demo.pack(teacher, tmp_path / "small.pt", Log(quiet=True))
    saved = torch.load(path, weights_only=True)
    assert set(saved) == {"format", "classes", "iteration", "config", "model"}
    assert str(digits) not in json.dumps(saved["config"])
    whole = sorted(teacher.glob("checkpoint-*.pt"))[-1]
    assert path.stat().st_size < 0.4 * whole.stat().st_size
    files = f"--annotations {digits}/val.json --images {digits}/images --device cpu --workers 0"
    assert main(f"eval {path} {files}".split()) == 0


def test_an_unfit_teacher_file_is_an_error_of_the_user(digits, tmp_path):
    from frs_train.config import DistillConfig

    (tmp_path / "t.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="t.pt"):
        quiet_fit(run_config(digits, tmp_path / "run", distill=DistillConfig(teacher=str(tmp_path / "t.pt"))))
