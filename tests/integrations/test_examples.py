"""Every example runs as its first lines say, and importing frs_kernels imports no integration."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {
    "plain_pytorch.py": "torchvision",
    "mmdetection_style.py": "torch",
    "other_losses.py": "torch",
    "softmax_losses.py": "torch",
    "mmrazor_losses.py": "mmengine",
    "torchdistill_detection.py": "torchdistill",
    "ultralytics_yolo26.py": "ultralytics",
    "ultralytics_measure_step.py": "ultralytics",
}
ARGUMENTS = {
    "torchdistill_detection.py": ["torchdistill_faster_rcnn.yaml"],
    "ultralytics_measure_step.py": "--imgsz 64 --batch 2 --steps 2 --amp float32 --device cpu".split(),
}
# data for the others; a configuration; tests/train runs it
NOT_RUN = {"tiny_data.py", "mmrazor_retinanet.py", "tutorial.py"}


def test_no_example_is_forgotten():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(NEEDS) | NOT_RUN


@pytest.mark.parametrize("name", NEEDS)
def test_example_runs(name):
    pytest.importorskip(NEEDS[name], reason=f"needs {NEEDS[name]} (pip install {NEEDS[name]})")
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *ARGUMENTS.get(name, [])],
        env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "nan" not in done.stdout.lower()


@pytest.mark.parametrize("most", [0, 1, 5, 16, 100, 230, 5000])
def test_the_largest_batch_is_found_to_a_64th(most, monkeypatch):
    pytest.importorskip("ultralytics", reason="needs ultralytics (pip install ultralytics)")
    monkeypatch.syspath_prepend(EXAMPLES)
    module = importlib.import_module("ultralytics_measure_step")
    tried = []
    largest = module.largest(lambda images: tried.append(images) or images <= most, start=16)
    limit = min(most, module.MAX_IMAGES)
    assert limit * 63 / 64 - 1 < largest <= limit and max(tried) <= module.MAX_IMAGES and len(tried) < 16


@pytest.mark.parametrize("name", ["ultralytics", "torchdistill", "mmrazor"])
def test_a_missing_package_is_named_with_the_command_that_gets_it(name, monkeypatch):
    package = {"mmrazor": "mmengine"}.get(name, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"frs_kernels.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=f'needs {package}, .*pip install "{package}'):
        importlib.import_module(f"frs_kernels.integrations.{name}")
