"""The choice of a device by its name."""

import pytest
import torch
from tiny_runs import quiet_fit, run_config

from frs_train import distributed
from frs_train.errors import UserError


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda")
    )
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)


@pytest.mark.parametrize("name", ["meta", "nonsense", "cuda:99", "cuda:-1", "", "cpu:0", "CPU", "cuda "])
def test_missing_device_is_an_error(name):
    with pytest.raises(UserError, match=rf"^--device is {name}\. Available are auto, cpu"):
        distributed.pick_device(name)


def test_existing_devices_are_listed(two_gpus):
    assert distributed.devices() == ["cpu", "cuda", "cuda:0", "cuda:1"]
    with pytest.raises(UserError, match="Available are auto, cpu, cuda, cuda:0, cuda:1"):
        distributed.pick_device("cuda:2")
    assert distributed.pick_device("cpu") == torch.device("cpu")


def test_device_is_checked_before_any_file_is_read(tmp_path):
    config = run_config(tmp_path / "no data", tmp_path / "run", device="meta")
    with pytest.raises(UserError, match="--device is meta"):
        quiet_fit(config)
    assert not (tmp_path / "run").exists()
