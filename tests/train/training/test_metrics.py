"""The file metrics.jsonl of a run."""

import json

from frs_train.training.run_files import read_metrics


def test_metrics_drop_lines_that_a_resumed_run_rewrites(tmp_path):
    path = tmp_path / "metrics.jsonl"
    numbers = {"lr": 0.1, "loss": 0.0, "losses": {}, "seconds_per_iteration": 1.0, "memory_mb": 1.0}
    lines = [json.dumps({"kind": "train", "iteration": i, **numbers}) for i in (1, 2, 3)]
    path.write_text("\n".join(lines) + '\n{"kind": "tr')
    from frs_train.log import Log
    from frs_train.training.metrics import Metrics

    Metrics(tmp_path, Log(quiet=True), 9, False).forget_after(2)
    assert [r["iteration"] for r in read_metrics(path)] == [1, 2]


def test_levels_are_in_the_file_and_only_ratios_of_terms_in_the_log(tmp_path, capsys):
    from frs_train.log import Log
    from frs_train.training.metrics import Metrics

    numbers = {"lr": 0.1, "loss": 2.5, "seconds_per_iteration": 1.0, "memory_mb": 1.0}
    record = numbers | {"losses": {"box": 0.0, "frs_head": 2.5}, "levels": {"head_level_0": 2.5}}
    record |= {"ratios": {"frs_head": 0.125, "head_level_0": 0.125}}
    Metrics(tmp_path, Log(), 9, False).train(1, record)
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"kind": "train", "iteration": 1, **record}]
    line = capsys.readouterr().err
    assert "box 0.0000  frs_head 2.5000 (ratio 0.12)" in line and "level" not in line
