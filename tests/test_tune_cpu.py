"""The page of the CPU's settings: that it is complete, and which settings are compared where."""

import pytest
import torch

from benchmarks import bandwidth, machine, memory, tune_cpu
from benchmarks.cpu_calls import operator_call
from benchmarks.workloads import Case
from frs_kernels import cpu_settings
from frs_kernels.library import load_native

pytestmark = pytest.mark.skipif(load_native("cpu") is not None, reason=str(load_native("cpu")))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(tune_cpu, "WORKLOAD", "tiny")
    monkeypatch.setitem(bandwidth.BUFFER, "cpu", 1 << 20)
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: True)  # for the rest of the process
    monkeypatch.setattr(tune_cpu, "ALTERNATIVES", {"loss_row": (1024, 20480), "prefetch_rows": (0, 1)})


def test_every_pass_and_every_other_value_has_a_row(small, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["tune_cpu", "--rounds", "1", "--folder", str(tmp_path / "new")])
    with cpu_settings.changed(loss_row=2048, prefetch_rows=1):
        tune_cpu.main()
    (page,) = (tmp_path / "new").iterdir()
    assert str(page) in capsys.readouterr().out and page.stem == machine.slug("cpu").removeprefix("cpu-")
    lines = page.read_text().splitlines()
    assert max(map(len, lines)) <= 120
    rows = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]
    assert all(rows.count(name) == len(tune_cpu.KINDS) for name in tune_cpu.PASSES)
    assert rows.count("loss_row") == 2 and rows.count("prefetch_rows") == 1
    assert any(line.startswith("| loss_row | 2048 -> 1024 | ") and line.count("- / -") == 2 for line in lines)


def test_every_alternative_is_allowed():
    known = cpu_settings.settings()
    assert tune_cpu.ALTERNATIVES.keys() == known.keys() - {"non_temporal_from"}  # one size of gradients only
    for name, values in tune_cpu.ALTERNATIVES.items():
        assert len(values) > 1
        for value in values:
            with cpu_settings.changed(**{name: value}):
                assert cpu_settings.settings()[name].value == value


def test_a_setting_is_compared_where_it_plays_a_part():
    parts = {
        (name, *kind, mode): tune_cpu.plays_a_part(name, *kind, mode)
        for name in tune_cpu.ALTERNATIVES
        for kind in tune_cpu.KINDS
        for mode in ("both", "forward")
    }
    assert parts["vector_bytes", "bf16", "nhwc", "forward"]
    assert parts["prefetch_loss", "fp32", "nchw", "both"]
    assert not parts["prefetch_loss", "fp32", "nchw", "forward"]
    assert not parts["prefetch_loss", "fp32", "nhwc", "both"]
    assert parts["non_temporal_bf16_channels_last", "bf16", "nhwc", "both"]
    assert not parts["non_temporal_bf16_channels_last", "fp32", "nhwc", "both"]
    assert not parts["non_temporal_bf16", "bf16", "nchw", "forward"]


def test_only_the_other_turns_have_other_settings():
    seen = {"present": [], "other": []}

    def note(name):
        seen[name].append(cpu_settings.settings()["mask_row"].value)

    calls = {name: lambda name=name: note(name) for name in seen}
    with cpu_settings.changed(mask_row=512):
        seconds = tune_cpu.turns(calls, 3, mask_row=768)
    assert seen == {"present": [512] * 4, "other": [768] * 4}
    assert [len(values) for values in seconds.values()] == [3, 3]


@pytest.mark.parametrize("op", ["mask", "imitation", "head", "loss"])
def test_a_call_of_an_operator_returns_the_gradients_that_its_mode_wants(op):
    if op == "mask":
        masks = operator_call(Case(op, "forward", "tiny", 2, "fp32", "nchw"))()
        assert [tuple(mask.shape) for mask in masks] == [(2, 4, 4), (2, 2, 2), (2, 1, 1)]
        return
    for mode, levels in (("both", 3), ("forward", 0)):
        losses, _, _, feats, logits = operator_call(Case(op, mode, "tiny", 2, "bf16", "nhwc"))()
        assert torch.isfinite(losses).all() and losses[2] > 0
        assert len(feats) == (levels if op != "head" else 0)
        assert len(logits) == (levels if op != "imitation" else 0)


def test_rounds_must_be_positive(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tune_cpu", "--rounds", "0"])
    with pytest.raises(SystemExit):
        tune_cpu.main()
    assert "--rounds must be at least 1, got 0" in capsys.readouterr().err
