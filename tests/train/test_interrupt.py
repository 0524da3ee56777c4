"""Ctrl-C and SIGTERM, in the first moment of a command as later: one line, and the status of the signal."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from frs_train.cli.commands import COMMANDS
from frs_train.cli.main import main
from frs_train.interrupt import MESSAGE

ROOT = Path(__file__).parents[2]
COMMAND = "from frs_train.__main__ import main; print('started', flush=True); raise SystemExit(main())"


def signals_as_in_a_terminal() -> None:
    """In the background of a script tests are started to ignore SIGINT, and would hand that on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def python():
    """Starts a Python process with some code and arguments; one that outlives the test is killed."""
    started = []

    def start(code: str, *arguments: object) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", textwrap.dedent(code), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
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
def test_a_command_ends_with_one_line(number, delay, tmp_path, python):
    process = python(COMMAND, "make-digits", tmp_path / "digits", "--train", 10**6)
    assert process.stdout.readline() == "started\n"
    time.sleep(delay)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", f"{MESSAGE}\n")


@pytest.mark.parametrize(("raised", "status"), [(KeyboardInterrupt(), 130), (KeyboardInterrupt(15), 143)])
def test_an_interrupted_command_has_one_line(raised, status, monkeypatch, capsys):
    def run(configuration, log):
        raise raised

    monkeypatch.setitem(COMMANDS, "export", replace(COMMANDS["export"], run=run))
    assert main(["export", "RUN", "--out", "x"]) == status
    assert capsys.readouterr().err == f"{MESSAGE}\n"


def test_a_command_closes_what_it_has_open(python):
    process = python("""
        import os, signal
        from frs_train.interrupt import leave, listen, unwinding
        listen(leave)
        try:
            with unwinding():
                os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as interrupted:
            print("closed", interrupted.args[0])
        os.kill(os.getpid(), signal.SIGINT)
        print("too late")
    """)
    assert process.communicate(timeout=60) == ("closed 15\n", f"{MESSAGE}\n") and process.returncode == 130


def test_an_import_cannot_swallow_the_signal(tmp_path, python):
    (tmp_path / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    code = """
        import sys
        from frs_train.interrupt import leave, listen, unwinding
        sys.path.append(sys.argv[1])
        listen(leave)
        with unwinding():
            try:
                import slow
            except BaseException:
                print("swallowed")
    """
    process = python(code, tmp_path)
    assert process.communicate(timeout=60) == ("", f"{MESSAGE}\n") and process.returncode == 130


def test_a_second_signal_is_not_waited_for(python):
    process = python("""
        import os, signal
        from frs_train.interrupt import leave, listen, unwinding
        listen(leave)
        with unwinding():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                os.kill(os.getpid(), signal.SIGINT)  # while it closes what is open
                print("too late")
    """)
    assert process.communicate(timeout=60) == ("", f"{MESSAGE}\n") and process.returncode == 130


def test_a_signal_that_is_to_be_ignored_is_ignored(python):
    process = python("""
        import os, signal
        from frs_train.interrupt import leave, listen, unwinding
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        listen(leave)
        with unwinding():
            os.kill(os.getpid(), signal.SIGTERM)
        print("done")
    """)
    assert process.communicate(timeout=60) == ("done\n", "") and process.returncode == 0
