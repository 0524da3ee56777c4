"""A small digits set and a teacher, made once."""

from pathlib import Path

import pytest
import torch
from tiny_runs import SIZE, quiet_fit, run_config

from frs_train.digits import make_digits


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """A folder with train.json (12 images), val.json (5 images) and images/."""
    folder = tmp_path_factory.mktemp("digits")
    make_digits(folder, train=12, val=5, size=SIZE, seed=0)
    return folder


@pytest.fixture(scope="session")
def teacher(digits, tmp_path_factory) -> Path:
    """The run folder of a teacher that has learnt next to nothing."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    quiet_fit(run_config(digits, out))
    return out


@pytest.fixture(autouse=True)
def one_thread():
    """These tensors are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
