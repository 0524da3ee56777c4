"""The GPU suite without a GPU: killed in every stage and resumed, and its summary.

The suite is a shell script that runs pytest. What is tested is how that script survives being killed, so it
runs here, as the only one of all tests that runs pytest: on a copy of the tree without .git, in a Python
without the trainer's packages. Commands that need a GPU are stubs (tests/dry_gpu), tests marked gpu are
collected and reported as passed without being run, and the benchmarks run on the CPU.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import programs
import pytest

from benchmarks import gpu_programs, prebuild, summary
from frs_kernels.library import load_native

ROOT = Path(__file__).parent.parent
FOLDERS = ("benchmarks", "csrc", "docs", "frs_kernels", "frs_train", "tests", "examples")
# The stages in their order, each with words of the command in which the test kills it.
STAGES = {
    "check": "16",
    "patterns": "gpu_patterns",
    "build": "build_ext",
    "quick race": "after benchmarks/test_race.py",
    "quick loss": "before -m pytest benchmarks/test_loss.py",
    "quick others": "before -m pytest benchmarks/test_mask.py",
    "tests": "after tests -m gpu and not slow",
    "sanitize memcheck": "memcheck --error-exitcode 99 --kernel-regex kns=frs build",
    "sanitize racecheck": "racecheck --error-exitcode 99 --kernel-regex kns=frs build",
    "sanitize-tests memcheck": "before -m pytest tests/test_triton_gpu.py",
    "counters": "loss_kernel -c 6",
    "counters-triton": "loss_kernel -c 2",
    "huge": "before -m pytest tests/test_cuda.py",
    "standard race": "before -m pytest benchmarks/test_race.py",
    "full race": "before -m pytest benchmarks/test_race.py --size full",
}


class Suite:
    """A copy of the tree, in which the suite can be started many times."""

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
        # Variables of pytest-xdist would tell the benchmarks that other tests run at the same time.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        env |= {"PATH": f"{stubs}:{env['PATH']}", "PYTHON": str(stubs / "python")}
        env |= {"DRY": str(self.dry), "DRY_PYTHON": sys.executable}
        env.pop("CUDA_HOME", None)  # its nvcc would come before the stub
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
        """Starts the suite and kills it in the command with these words, as the loss of the machine would."""
        self.set("hold", words)
        held = self.dry / "held"
        held.unlink(missing_ok=True)
        process = self.start(*stages)
        _wait_until(lambda: held.exists() or process.poll() is not None)
        assert held.exists(), process.communicate()[0]
        if how == signal.SIGKILL:
            for pid in _alive(process.pid):
                os.kill(pid, how)
        else:
            process.send_signal(how)
        process.communicate(timeout=20)
        _wait_until(lambda: not _alive(process.pid))
        self.set("hold")

    @property
    def folder(self) -> Path:
        (folder,) = self.out.iterdir()
        return folder

    def done(self) -> list[str]:
        file = self.folder / "done.txt"
        return file.read_text().splitlines() if file.exists() else []


def _wait_until(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(leader: int) -> list[int]:
    """The processes of a session that have not ended."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if os.getsid(int(entry.name)) == leader and state not in "ZX":
                pids.append(int(entry.name))
        except (ProcessLookupError, FileNotFoundError):
            pass  # it has ended in the meantime
    return pids


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
        if stage == "quick race":  # the race measured before the kill is saved
            (bench,) = json.loads((suite.folder / "benchmarks.json").read_text())["benchmarks"]
            assert bench["extra_info"]["turns"].keys() == {"native", "official", "best-eager", "copy"}
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
        "ended: gpu_check 16", "ended: gpu_patterns", "passed", "ERROR SUMMARY: 0 errors", "tiny, B=1, fp32",
        "Side by side", "quick race: already done",
    ):  # fmt: skip
        assert wanted in text, text


@pytest.mark.slow
def test_too_few_tests_are_not_done_and_later_stages_run(suite):
    suite.set("few")
    suite.set("built")
    code, output = suite.run("huge", "counters")
    assert code == 1 and "huge: FAILED" in output and "not done: huge" in output
    assert suite.done() == ["counters", "counters-triton"]
    assert "1 passed" in (suite.folder / "summary.md").read_text()


def test_a_signal_ends_what_runs_and_another_gpu_has_its_own_folder(suite):
    suite.kill_in("16", "check", how=signal.SIGTERM)
    assert suite.done() == [] and "begun: gpu_check 16" in (suite.folder / "check.txt").read_text()
    before = suite.folder
    suite.set("name", "NVIDIA Other")
    assert suite.run("check")[0] == 0
    names = {folder.name.rpartition("-")[0] for folder in suite.out.iterdir()}
    assert names == {"nvidia-dry-80gb", "nvidia-other"} and not (before / "done.txt").exists()


def test_what_was_built_elsewhere_is_taken(suite, monkeypatch):
    for name in (*prebuild.LIBRARIES, f"{prebuild.TRITON_CACHE}/kernel"):
        (suite.tree / name).parent.mkdir(parents=True, exist_ok=True)
        (suite.tree / name).touch()
    monkeypatch.setattr(prebuild, "ARCHIVE", suite.tree / prebuild.ARCHIVE.name)
    for module in (prebuild, gpu_programs):
        monkeypatch.setattr(module, "ROOT", suite.tree)
    for which in gpu_programs.SETS:
        *programs, label = (suite.tree / file for file in gpu_programs.files(which))
        for program in programs:
            program.parent.mkdir(exist_ok=True)
            shutil.copy(suite.tree / "tests/dry_gpu/tool", program)
        label.write_text(gpu_programs.label("9.0"))
    prebuild.pack("9.0")
    shutil.rmtree(suite.tree / "build")
    suite.set("hold", "nvcc")  # would be waited for
    code, output = suite.run("variants", "check", "patterns")
    assert code == 0 and "unpacked prebuilt.tar.xz" in output
    assert (suite.tree / prebuild.TRITON_CACHE / "kernel").exists() and not (suite.dry / "held").exists()
    text = (suite.folder / "check.txt").read_text()
    batches = [line.split()[2] for line in text.splitlines() if line.startswith("=== four-warps ")]
    assert batches == ["16", "1", "16"]


def test_a_command_that_hangs_is_cut_off_and_the_next_one_runs(suite):
    for name, text in (("short", ""), ("hold", "16 once"), ("built", "")):
        suite.set(name, text)
    code, output = suite.run("counters", "check")
    assert code == 1 and "counters: cut off after" in output and "counters-triton: ok" in output
    assert suite.done() == ["counters-triton", "check"]


def test_the_digest_of_the_sources_needs_no_torch():
    assert "native-cuda" in programs.output("digest_without_torch.py")


def test_the_log_of_tests_is_read_with_and_without_xdist():
    lines = [
        "tests/test_a.py::test_b[x-1] PASSED                 [ 10%]",
        "tests/test_a.py::test_c[a b] FAILED [ 20%]",
        "[gw3] [  5%] PASSED tests/test_a.py::test_c[a b] ",
        "[gw11] [100%] ERROR tests/test_a.py::test_d",
        "FAILED tests/test_a.py::test_c[a b] - AssertionError: 1",
    ]
    assert summary.outcomes(lines) == {
        "tests/test_a.py::test_b[x-1]": "PASSED",
        "tests/test_a.py::test_c[a b]": "PASSED",
        "tests/test_a.py::test_d": "ERROR",
    }


def test_the_summary_of_a_folder_with_nothing_in_it(tmp_path):
    (tmp_path / "log.txt").write_text("[10:00:00] check ...\nnoise\n")
    text = summary.page(tmp_path)
    assert "[10:00:00] check ..." in text and "noise" not in text and text.count("Nothing yet.") == 5
