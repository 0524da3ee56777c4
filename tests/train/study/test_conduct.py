"""A study from its file to its page: every run once, in any order, and again from where it was stopped."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import programs
import pytest
import studies
import torch

from frs_train import interrupt
from frs_train.cli.main import main
from frs_train.errors import Diverged, UserError
from frs_train.log import Log
from frs_train.study import tables, workers
from frs_train.study.conduct import conduct
from frs_train.study.file import read_study
from frs_train.study.outcome import best_candidate, read_outcome
from frs_train.study.plan import Plan
from frs_train.training.checkpoint import newest
from frs_train.training.run import fit

ARMS = ("none", "whole-map", "frs")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, Path]:
    """The file and the folder of a finished study."""
    folder = tmp_path_factory.mktemp("study")
    path = studies.write(folder)
    assert main(["study", str(path), "--out", str(folder / "out"), "--jobs", "2"]) == 0
    return path, folder / "out"


def test_every_run_is_there_and_none_is_trained_twice(done, monkeypatch, capsys):
    path, out = done
    found = {p.parent.relative_to(out / "digits").as_posix() for p in out.rglob("result.json")}
    tried = {f"tuning/{arm}/candidate-{n}/seed-101" for arm in ARMS[1:] for n in (0, 1)}
    assert found == {"teacher"} | tried | {f"{arm}/seed-{seed}" for arm in ARMS for seed in (1, 2)}
    assert not list((out / "digits/tuning").rglob("*.pt")) and list((out / "digits/frs/seed-1").glob("*.pt"))
    before = (out / "study.json").read_bytes()
    monkeypatch.setattr(workers.Workers, "train", lambda self, runs: iter([(r, "") for r in runs]))
    assert main(["study", str(path), "--out", str(out)]) == 0
    assert "AP" not in capsys.readouterr().err.partition("digits: ")[0], "no run was left to train"
    assert (out / "study.json").read_bytes() == before


def test_runs_in_a_worker_are_those_of_the_command_line(done, digits):
    """The weights do not depend on the process, or on what it trained before."""
    path, out = done
    plan = Plan(read_study(path), out)
    run = plan.student("digits", "none", 2)
    alone = out / "alone"
    fit(replace(run.config, out=alone), Log(quiet=True))
    ours, theirs = (newest(folder, print)["model"] for folder in (alone, run.config.out))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_outcome_and_page_hold_every_result(done):
    _, out = done
    outcome = read_outcome(out / "study.json")
    arms = outcome.data["digits"].arms
    for arm in ARMS:
        for seed in (1, 2):
            result = json.loads((out / f"digits/{arm}/seed-{seed}/result.json").read_text())
            assert arms[arm].runs[seed].scores["AP"] == result["AP"]
            assert set(arms[arm].runs[seed].losses) >= {"classification", "bbox_regression"}
    assert "frs_feature" in arms["frs"].runs[1].losses and len(arms["frs"].candidates) == 2
    text = (out / "study.md").read_text()
    assert "| none |" in text and "minus whole-map [95 %]" in text and "how the weights were chosen" in text
    html = (out / "study.html").read_text()
    assert html.count("<table>") == 3 and "data:image/png" in html and "http" not in html
    assert (out / "study.png").stat().st_size > 10_000


def test_weights_with_the_highest_score_are_taken(done):
    path, out = done
    plan = Plan(read_study(path), out)
    results = [out / f"digits/tuning/frs/candidate-{n}/seed-101/result.json" for n in (0, 1)]
    before = [result.read_text() for result in results]
    try:
        for best in (0, 1):
            for number, result in enumerate(results):
                score = {"AP": 0.5 if number == best else 0.1}
                result.write_text(json.dumps({**json.loads(before[number]), **score}))
            assert best_candidate(plan, "digits", "frs") == best
    finally:
        for result, text in zip(results, before, strict=True):
            result.write_text(text)


def test_a_changed_study_is_refused(done, tmp_path):
    _, out = done
    path = studies.write(
        tmp_path, ('distill = { method = "none" }', 'distill = { method = "none", teacher_amp = "bf16" }')
    )
    with pytest.raises(UserError, match="other options: distill.teacher_amp was 'none' and is 'bf16'"):
        conduct(read_study(path), out, 1, Log(quiet=True))
    path = studies.write(
        tmp_path, ("digits = { train = 4, val = 2, size = 64 }", "digits = { train = 5, val = 2, size = 64 }")
    )
    with pytest.raises(UserError, match="digits holds digits made with other options"):
        conduct(read_study(path), out, 1, Log(quiet=True))


def test_data_and_teachers_are_opened_before_the_first_run(tmp_path):
    digits = "digits = { train = 4, val = 2, size = 64 }\n"
    path = studies.write(tmp_path, (digits, digits + 'teacher.checkpoint = "nowhere"\n'))
    with pytest.raises(UserError, match="nowhere"):
        conduct(read_study(path), tmp_path / "out", 1, Log(quiet=True))
    assert not list(tmp_path.rglob("config.json"))


def test_a_run_that_diverges_is_reported_and_the_others_go_on(tmp_path, monkeypatch):
    found = read_study(studies.write(tmp_path))

    class Here(workers.Workers):
        """Trains in this process, so that a run can be made to diverge."""

        def __init__(self, jobs):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def train(self, runs):
            for run in runs:
                bad = run.name in ("digits/frs/seed-2", "digits/tuning/frs/candidate-0/seed-101")
                yield run, "The loss is not finite." if bad else workers._train(workers.to_dict(run.config))

    monkeypatch.setattr("frs_train.study.conduct.Workers", Here)
    outcome = conduct(found, tmp_path / "out", 1, Log(quiet=True))
    arm = outcome.data["digits"].arms["frs"]
    assert set(arm.runs) == {1} and arm.diverged == {2: "The loss is not finite."}
    assert arm.options["feat_weight"] == 0.01 and arm.candidates[0].AP == {101: None}
    assert tables.every_run(outcome, outcome.data["digits"])[3][-1] == "diverged"


def test_a_worker_returns_the_message_of_a_divergence(tmp_path, monkeypatch):
    def diverge(config, log):
        raise Diverged("The loss of step 3 is not finite.")

    monkeypatch.setattr("frs_train.training.run.fit", diverge)
    run = Plan(read_study(studies.write(tmp_path)), tmp_path / "out").student("digits", "none", 1)
    assert workers._train(workers.to_dict(run.config)) == "The loss of step 3 is not finite."


def default_signals() -> None:
    """Background jobs of a shell inherit that SIGINT is ignored."""
    for number in interrupt.SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_runs_and_the_command_goes_on(tmp_path, number):
    path = studies.write(
        tmp_path,
        (
            "train = { iterations = 2, batch_size = 2, checkpoint_every = 0, log_every = 1",
            "train = { iterations = 100000, batch_size = 2, checkpoint_every = 0, log_every = 1",
        ),
    )
    command = [sys.executable, "-m", "frs_train", "study", str(path), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        command, env=programs.environment(), stderr=subprocess.PIPE, preexec_fn=default_signals, text=True
    )
    folder, deadline = tmp_path / "out/digits/teacher", time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in err
    assert err.splitlines()[-1] == "frs-train: interrupted."
    saved = list(folder.glob("checkpoint-*.pt"))
    assert len(saved) == 1 and saved[0].name != "checkpoint-00000000.pt"
