"""Checkpoints: written completely or not at all, without code, and the newest readable one is used."""

import os
import zipfile

import pytest
import torch
from tiny_runs import run_config

from frs_train.config import DistillConfig, RunConfig
from frs_train.errors import UserError
from frs_train.options import from_dict, to_dict
from frs_train.training import checkpoint


def content(value=0.0):
    return {"config": {}, "classes": ["a"], "model": {"w": torch.full((1000,), value)}}


def test_saved_files_load_with_weights_only(tmp_path):
    path = checkpoint.save(tmp_path, 7, content(3.0), keep=2)
    raw = torch.load(path, weights_only=True)
    assert raw["iteration"] == 7 and torch.equal(raw["model"]["w"], torch.full((1000,), 3.0))


def test_only_the_newest_are_kept(tmp_path):
    for iteration in (5, 50, 500, 5000):
        checkpoint.save(tmp_path, iteration, content(), keep=2)
    names = [path.name for path in checkpoint.checkpoints(tmp_path)]
    assert names == ["checkpoint-00005000.pt", "checkpoint-00000500.pt"]


def test_new_checkpoint_is_kept_for_any_keep(tmp_path):
    for iteration in (1, 2):
        checkpoint.save(tmp_path, iteration, content(), keep=0)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["checkpoint-00000002.pt"]


def test_resumed_run_keeps_the_checkpoints_that_it_writes(tmp_path):
    """The later checkpoints were unreadable. If they counted as newest, readable ones would be removed."""
    for iteration in (1, 7, 8):
        checkpoint.save(tmp_path, iteration, content(), keep=3)
    checkpoint.save(tmp_path, 2, content(), keep=2)
    names = [path.name for path in checkpoint.checkpoints(tmp_path)]
    assert names == ["checkpoint-00000002.pt", "checkpoint-00000001.pt"]


def test_only_files_with_the_name_of_a_checkpoint_count(tmp_path):
    others = ["00000002-backup.pt", "best.pt", "3.pt", "000000004.pt", "0000000\u0665.pt", "00000006.pt.bak"]
    others = ["best.pt", *(f"checkpoint-{name}" for name in others)]
    first = checkpoint.save(tmp_path, 2, content(), keep=1)
    for name in others:
        (tmp_path / name).write_bytes(first.read_bytes())
    (tmp_path / "checkpoint-00000009.pt").mkdir()
    last = checkpoint.save(tmp_path, 123_456_789, content(), keep=1)
    assert checkpoint.checkpoints(tmp_path) == [last]
    assert {path.name for path in tmp_path.iterdir()} == {*others, last.name, "checkpoint-00000009.pt"}


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_checkpoint_is_named_and_the_previous_one_is_used(tmp_path, damage):
    checkpoint.save(tmp_path, 1, content(1.0), keep=2)
    path = checkpoint.save(tmp_path, 2, content(2.0), keep=2)
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        with zipfile.ZipFile(path) as archive:
            start = max(archive.infolist(), key=lambda part: part.file_size).header_offset
        raw[start + 2000] ^= 1
    path.write_bytes({"cut": raw[: len(raw) // 2], "flip": raw, "empty": b""}[damage])
    warnings = []
    assert checkpoint.newest(tmp_path, warnings.append)["iteration"] == 1
    assert len(warnings) == 1 and path.name in warnings[0]


def test_unreadable_checkpoints_are_an_error_and_no_checkpoints_are_not(tmp_path):
    assert checkpoint.newest(tmp_path, print) is None
    checkpoint.save(tmp_path, 1, content(), keep=1).write_bytes(b"")
    with pytest.raises(UserError, match="None of the 1 checkpoints"):
        checkpoint.newest(tmp_path, lambda warning: None)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"format": checkpoint.FORMAT, "evil": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="evil.pt is damaged, or not a checkpoint"):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_configuration_survives_json(digits, tmp_path):
    config = run_config(digits, tmp_path, distill=DistillConfig(teacher="t"), detector={"min_size": (64, 96)})
    assert from_dict(RunConfig, to_dict(config)) == config


def test_a_configuration_of_another_version_is_refused(digits, tmp_path):
    saved = {"config": {**to_dict(run_config(digits, tmp_path)), "novelty": 1}, "classes": ["a"]}
    with pytest.raises(UserError, match="^The configuration in the .*: There is no option 'novelty'"):
        checkpoint.config_of(saved)
