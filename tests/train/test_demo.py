"""`frs-train demo` from start to end, and the teacher that the package ships."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import programs
import pytest
import torch
from builds import sources

from frs_train import demo
from frs_train.cli.main import main
from frs_train.log import Log


@pytest.fixture
def small_demo(monkeypatch):
    made = demo.digits
    monkeypatch.setattr(
        demo, "digits", lambda folder, **options: made(folder, **{**options, "train": 16, "val": 6})
    )
    monkeypatch.setattr(demo, "STUDENT_TRAIN", replace(demo.STUDENT_TRAIN, threads=1, log_every=1))


def test_demo_writes_table_curves_masks_and_report(small_demo, tmp_path):
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
def test_demo_compares_the_students(gain, word):
    results = {"student": {"AP": 0.3}, "student-frs": {"AP": 0.3 + gain}}
    assert word in demo.compare(results)


def test_packed_teacher_has_only_the_content_for_detection(digits, teacher, tmp_path):
    path = demo.pack(teacher, tmp_path / "small.pt", Log(quiet=True))
    saved = torch.load(path, weights_only=True)
    assert set(saved) == {"format", "classes", "iteration", "config", "model"}
    assert str(digits) not in json.dumps(saved["config"])
    whole = sorted(teacher.glob("checkpoint-*.pt"))[-1]
    assert path.stat().st_size < 0.4 * whole.stat().st_size
    files = f"--annotations {digits}/val.json --images {digits}/images --device cpu --workers 0"
    assert main(f"eval {path} {files}".split()) == 0


@pytest.fixture
def site(tmp_path) -> Path:
    """A folder with the content of a wheel, made of the sources without native libraries."""
    clone = sources(tmp_path)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, clone]
    environment = {**os.environ, "FRS_BUILD": "none"}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(clone)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    return tmp_path / "site"


def content(folder: Path) -> dict[Path, int]:
    """When each file of a folder was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_demo_of_a_wheel_needs_neither_the_sources_nor_a_compiler(site, tmp_path):
    before, nowhere = content(site), str(tmp_path / "empty")
    out = programs.output(
        "installed_demo.py", tmp_path / "results", cwd=tmp_path, PYTHONPATH=str(site),
        PYTHONDONTWRITEBYTECODE="1", PATH=nowhere, CC=nowhere, CXX=nowhere, CUDA_HOME=nowhere,
    )  # fmt: skip
    *imports, last = out.splitlines()
    packages = [f"{name} in {site / name}" for name in ("frs_kernels", "frs_train")]
    assert imports == [*packages, "imports opened"]  # opened nothing: only the demo reads its teacher
    assert last.startswith("the demo opened") and "digits_teacher.pt" in last.split()
    assert "student-frs" in (tmp_path / "results" / "results.md").read_text()
    assert content(site) == before, "the installed package may be read-only"
