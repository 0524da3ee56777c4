"""The benchmark of a call's host time."""

import pytest
import torch

from benchmarks import host_time
from frs_kernels.library import load_native


def test_the_cases_are_the_calls_they_are_named_after():
    for case in host_time.cases().values():
        assert case.call().requires_grad and case.call().isfinite()
        assert len(case.checked().student_feats) > 1
        assert bool(case.checked().masks) == case.imitation_alone
        host_time.bare_loss(case.tensors).backward()
        assert all(leaf.grad.shape == leaf.shape for leaf in case.tensors.leaves)


@pytest.mark.skipif(load_native("cpu") is not None, reason="phases are those of a fused backend")
def test_every_phase_has_a_time(monkeypatch, capsys):
    threads = torch.get_num_threads()
    monkeypatch.setattr("sys.argv", ["host_time", "--rounds", "10"])
    try:
        host_time.main()
    finally:
        torch.set_num_threads(threads)
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert [word.strip() for word in header.strip("|").split("|")][1:] == list(host_time.COLUMNS)
    assert [row.split("|")[1].strip() for row in rows] == list(host_time.cases())
    assert all(len(row.strip("|").split("|")) == len(host_time.COLUMNS) + 1 for row in rows)
