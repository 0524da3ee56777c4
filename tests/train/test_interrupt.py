"""Ctrl-C and SIGTERM at any moment of a command: one line, and the exit status of the signal."""

import signal
import subprocess
import time
from dataclasses import replace

import programs
import pytest

from frs_train.cli.commands import COMMANDS
from frs_train.cli.main import main
from frs_train.interrupt import MESSAGE


def signals_as_in_a_terminal() -> None:
    """Restores the default handlers: background jobs of a shell inherit that SIGINT is ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def interrupted():
    """Starts tests/programs/interrupted.py with arguments; a process that outlives the test is killed."""
    started = []

    def start(*arguments: object) -> subprocess.Popen:
        process = subprocess.Popen(
            programs.command("interrupted.py", *arguments),
            env=programs.environment(PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=signals_as_in_a_terminal,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


@pytest.mark.parametrize(
    ("number", "delay"),
    [(signal.SIGINT, d) for d in (0.05, 0.3, 0.7, 1.1, 1.5)] + [(signal.SIGTERM, d) for d in (0.05, 1.0)],
)
def test_a_command_ends_with_one_line(number, delay, tmp_path, interrupted):
    process = interrupted("command", "make-digits", tmp_path / "digits", "--train", 10**6)
    assert process.stdout.readline() == "started\n"
    time.sleep(delay)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", f"{MESSAGE}\n")


@pytest.mark.parametrize(("raised", "status"), [(KeyboardInterrupt(), 130), (KeyboardInterrupt(15), 143)])
def test_interrupted_command_prints_one_line(raised, status, monkeypatch, capsys):
    def run(configuration, log):
        raise raised

    monkeypatch.setitem(COMMANDS, "export", replace(COMMANDS["export"], run=run))
    assert main(["export", "RUN", "--out", "x"]) == status
    assert capsys.readouterr().err == f"{MESSAGE}\n"


def test_interrupted_command_closes_its_files(interrupted):
    process = interrupted("closing")
    assert process.communicate(timeout=60) == ("closed 15\n", f"{MESSAGE}\n") and process.returncode == 130


def test_an_import_cannot_swallow_the_signal(interrupted):
    process = interrupted("importing")
    assert process.communicate(timeout=60) == ("", f"{MESSAGE}\n") and process.returncode == 130


def test_second_signal_ends_the_command_at_once(interrupted):
    process = interrupted("twice")
    assert process.communicate(timeout=60) == ("", f"{MESSAGE}\n") and process.returncode == 130


def test_ignored_signals_stay_ignored(interrupted):
    process = interrupted("ignoring")
    assert process.communicate(timeout=60) == ("done\n", "") and process.returncode == 0
