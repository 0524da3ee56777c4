"""Fixtures: a small digits data set and a teacher, made once per session.

The tests are skipped if the packages of the trainer are missing. The fixtures import these packages, because
an import error in this file would end the collection of all tests.
"""

import functools
import importlib
from pathlib import Path

import pytest
import torch

NEEDED = (
    "PIL", "faster_coco_eval", "filelock", "matplotlib", "numpy", "pycocotools", "pydantic", "rich", "scipy",
    "skimage", "sklearn", "torchvision", "tyro", "yaml",
)  # fmt: skip


@functools.cache
def missing() -> list[str]:
    def lacks(name: str) -> bool:
        try:
            importlib.import_module(name)
        except ImportError:
            return True
        return False

    return [name for name in NEEDED if lacks(name)]


class SkippedModule(pytest.Module):
    def collect(self):
        pytest.skip(f"frs_train needs {', '.join(missing())}", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return SkippedModule.from_parent(parent, path=module_path) if missing() else None


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """A folder with train.json (12 images), val.json (5 images) and images/."""
    from tiny_runs import SIZE

    from frs_train.data.digits import make_digits

    folder = tmp_path_factory.mktemp("digits")
    make_digits(folder, train=12, val=5, size=SIZE, seed=0)
    return folder


@pytest.fixture(scope="session")
def teachers(digits, tmp_path_factory):
    """teachers(family): the run folder of a teacher after a few iterations of training, trained once."""
    from tiny_runs import quiet_fit, run_config

    @functools.cache
    def trained(family: str) -> Path:
        out = tmp_path_factory.mktemp("teacher") / "run"
        quiet_fit(run_config(digits, out, detector={"family": family}))
        return out

    return trained


@pytest.fixture(scope="session")
def teacher(teachers) -> Path:
    """The run folder of an FCOS after a few iterations of training."""
    return teachers("fcos")


@pytest.fixture(autouse=True)
def one_thread():
    """The tensors are too small for several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
