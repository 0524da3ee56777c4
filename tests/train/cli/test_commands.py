"""The command line: every subcommand on a tiny run."""

import json
import shlex
import subprocess
import sys

import programs
import pytest
import torch
from tiny_detectors import tiny
from tiny_runs import quiet_fit, run_config

from frs_train.cli.commands import COMMANDS
from frs_train.cli.main import main, parse
from frs_train.errors import UserError


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert command in text


HEAVY = {
    "faster_coco_eval", "frs_kernels", "matplotlib", "onnx", "onnxruntime", "onnxscript", "scipy", "skimage",
    "sklearn", "torch", "torchvision",
}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("--help", 0),
        ("distill --help", 0),
        ("demo --help", 0),
        ("predict --help", 0),
        ("train --out x --bacth-size 3", 2),
        ("train --out x --batch-size 0", 2),
        ("no-such-command", 2),
    ],
)
def test_help_and_errors_of_options_import_nothing_heavy(line, status):
    output = programs.output("command_imports.py", *line.split())
    found, *packages = output.splitlines()[-1].split()
    assert int(found) == status and {"tyro", "frs_train"} <= set(packages)
    assert not HEAVY.intersection(packages)


@pytest.mark.parametrize("unbuffered", ["", "-u"])
def test_reader_that_closes_the_pipe_early_is_not_an_error(unbuffered, monkeypatch):
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
    plain = tiny("retinanet", num_classes=11, head_norm="none").model  # a plain RetinaNet of torchvision
    assert type(plain).__module__.startswith("torchvision.")
    plain.load_state_dict(state, strict=True)


def test_export_of_a_family_that_torchvision_lacks(digits, tmp_path, capsys):
    quiet_fit(run_config(digits, tmp_path / "run", iterations=1, detector={"family": "gfl"}))
    assert main(f"export {tmp_path}/run --out {tmp_path}/student.pt".split()) == 2
    assert "no GFL" in capsys.readouterr().err and not (tmp_path / "student.pt").exists()


@pytest.mark.parametrize("line", ["eval x.onnx --data d", "predict x.onnx i --out o", "benchmark x.onnx"])
def test_an_onnx_file_runs_on_the_cpu_only(line, capsys):
    assert main([*line.split(), "--device", "cuda"]) == 2
    assert capsys.readouterr().err == "frs-train: --device is cuda, and ONNX models run on the CPU only.\n"


def test_make_digits(tmp_path):
    assert main(f"make-digits {tmp_path}/d --train 2 --val 1 --size 64 --seed 3".split()) == 0
    record = json.loads((tmp_path / "d" / "train.json").read_text())
    assert len(record["images"]) == 2 and "sparse" not in record["info"]["description"]


def test_make_digits_in_sparse_scenes(tmp_path):
    assert main(f"make-digits {tmp_path}/d --train 2 --val 1 --size 64 --scenes sparse".split()) == 0
    record = json.loads((tmp_path / "d" / "train.json").read_text())
    assert "sparse" in record["info"]["description"]


def test_teacher_file_that_is_not_a_checkpoint_is_a_user_error(digits, tmp_path):
    from frs_train.config import DistillConfig

    (tmp_path / "t.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="t.pt"):
        quiet_fit(run_config(digits, tmp_path / "run", distill=DistillConfig(teacher=str(tmp_path / "t.pt"))))
