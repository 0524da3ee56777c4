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
