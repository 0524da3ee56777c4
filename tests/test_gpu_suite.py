"""The GPU suite without a GPU: killed in every stage, continued, and its summary read.

The commands that need a GPU are stubs (tests/dry_gpu). The shell script and everything else that it calls are
the real ones, on a copy of the tree without .git and in a Python without the trainer's packages. The tests
marked gpu are collected, not run; the benchmarks run on the CPU.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from frs_kernels.library import load_native

ROOT = Path(__file__).parent.parent
FOLDERS = ("benchmarks", "csrc", "frs_kernels", "frs_train", "tests", "examples")
# Each stage in its order, and words of the command in which it is killed.
STAGES = {
    "check": "16",
    "build": "build_ext",
    "quick race": "benchmarks/test_race.py",
    "quick loss": "benchmarks/test_loss.py",
    "quick others": "benchmarks/test_mask.py",
    "tests": "gpu and not slow",
    "sanitize memcheck": "memcheck --error-exitcode 99 --kernel-regex kns=frs build",
    "sanitize racecheck": "racecheck --error-exitcode 99 --kernel-regex kns=frs build",
    "sanitize-tests memcheck": "-m sanitize",
    "counters": "score_kernel",
    "counters-triton": "mask_kernel",
    "huge": "gpu and slow",
    "standard race": "before -m pytest benchmarks/test_race.py",
}


class Suite:
    """A copy of the tree, and the suite started in it as often as wanted."""

    def __init__(self, folder: Path):
        self.tree, self.out, self.dry = folder / "tree", folder / "out", folder / "dry"
        self.dry.mkdir()
        for name in FOLDERS:
            ignored = shutil.ignore_patterns("__pycache__", "*.part")
            shutil.copytree(ROOT / name, self.tree / name, ignore=ignored, symlinks=True)
        for name in ("pyproject.toml", "setup.py"):
            shutil.copy(ROOT / name, self.tree)
        self.set("name", "NVIDIA Dry 80GB")

    def set(self, name: str, text: str = "") -> None:
        (self.dry / name).write_text(text)

    def start(self, *stages: str) -> subprocess.Popen:
        stubs = self.tree / "tests/dry_gpu"
        env = {**os.environ, "PATH": f"{stubs}:{os.environ['PATH']}", "PYTHON": str(stubs / "python")}
        env |= {"DRY": str(self.dry), "DRY_PYTHON": sys.executable}
        command = ["bash", str(self.tree / "benchmarks/gpu_suite.sh"), str(self.out), *stages]
        return subprocess.Popen(
            command,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *stages: str) -> tuple[int, str]:
        process = self.start(*stages)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def kill_in(self, words: str, *stages: str, how=signal.SIGKILL) -> None:
        """Starts the suite and kills it in the command with these words, as a machine that goes away does."""
        self.set("hold", words)
        held = self.dry / "held"
        held.unlink(missing_ok=True)
        process = self.start(*stages)
        deadline = time.monotonic() + 120
        while not held.exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.05)
        if how == signal.SIGKILL:
            for pid in _session(process.pid):
                os.kill(pid, how)
        else:
            process.send_signal(how)
        process.communicate()
        self.set("hold")

    @property
    def folder(self) -> Path:
        (folder,) = self.out.iterdir()
        return folder

    def done(self) -> list[str]:
        file = self.folder / "done.txt"
        return file.read_text().splitlines() if file.exists() else []


def _session(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
        except ProcessLookupError:
            pass
    return found


@pytest.fixture
def suite(tmp_path) -> Suite:
    return Suite(tmp_path)


@pytest.mark.slow
def test_killed_in_every_stage_and_continued(suite):
    if load_native("cpu") is not None:
        pytest.skip("the CPU kernels are not built: without them no race runs here")
    for index, (stage, words) in enumerate(STAGES.items()):
        suite.kill_in(words, "first", "second")
        done = suite.done()
        assert stage not in done and list(STAGES)[:index] == [name for name in STAGES if name in done]
    code, output = suite.run("first", "second")
    assert code == 0, output
    assert set(STAGES) <= set(suite.done()) and "all done" in output
    files = {file.name for file in suite.folder.iterdir()}
    assert files == {
        "log.txt", "check.txt", "tests.txt", "sanitize.txt", "counters.txt", "benchmarks.json", "summary.md",
        "done.txt",
    }  # fmt: skip
    text = (suite.folder / "summary.md").read_text()
    for wanted in (
        "ended: gpu_check 16", "passed", "ERROR SUMMARY: 0 errors", "tiny, B=1, fp32", "Side by side",
        "quick race: done before",
    ):  # fmt: skip
        assert wanted in text, text
