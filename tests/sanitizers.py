"""Builds the C++ with the compiler's sanitizers, runs tests on it, and reports what the sanitizers found.

    python -m tests.sanitizers [address|thread] [TEST ...]

address finds accesses outside of memory and undefined behavior, and fails the bounds checks of FRS_DEBUG=1.
thread finds data races. Each builds in a copy of the sources, build/sanitize/<its name>, so that the normal
libraries stay. Python and torch are not built with sanitizers: only what csrc/ does is seen. The exit status
is 0, or FOUND if a sanitizer found something, or that of the command that failed.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("csrc", "frs_kernels", "benchmarks", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
FOUND = 99  # exit status; no status of pytest
CXX = "g++"

CPU, KL, MEMORY, EMULATED = (
    "tests/test_native_cpu.py",
    "tests/test_kl_native.py",
    "tests/test_native_cpu_memory.py",
    "tests/test_cuda_emulated.py",
)
# How much memory a process has is not what a sanitizer leaves of it.
POOL = (f"{MEMORY}::test_pooled_gradients_are_right_when_their_memory_is_used_again",)
THREADS = (f"{CPU}::test_threads_that_call_at_once", f"{MEMORY}::test_gradients_survive_a_fork")
COUNTER = (  # of the tasks that threads share
    f"{CPU}::test_the_same_bits_with_any_number_of_threads",
    f"{CPU}::test_more_threads_than_tasks[sizes0-layout0]",
    f"{KL}::test_the_same_bits_with_any_number_of_threads",
)
OPERATORS = [
    f"tests/test_{name}.py" for name in ("mask", "loss_operator", "scale_operator", "head", "imitation", "kl")
]


@dataclass(frozen=True)
class Sanitizer:
    flags: str  # of the compiler and of the linker
    libraries: tuple[str, ...]  # a process that is not built with the sanitizer has to load them first
    options: dict[str, str]  # what the sanitizer reads from the environment
    tests: tuple[str, ...]
    debug: bool = False  # whether the build has bounds checks


SANITIZERS = {
    "address": Sanitizer(
        # What null and object-size would find, address does; and they double the time of the compiler.
        flags="-O1 -g1 -fsanitize=address,undefined -fno-sanitize=null,object-size",
        libraries=("libasan.so", "libubsan.so", "libstdc++.so.6"),
        options={
            "ASAN_OPTIONS": "detect_leaks=0:handle_abort=1",  # aborts are those of UBSan and FRS_CHECK
            "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:print_stacktrace=1",
        },
        tests=(*OPERATORS, CPU, KL, *POOL, THREADS[1], EMULATED),
        debug=True,
    ),
    "thread": Sanitizer(
        flags="-O1 -g1 -fsanitize=thread",
        libraries=("libtsan.so", "libstdc++.so.6"),
        options={"TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1:die_after_fork=0"},
        tests=(*POOL, *THREADS, *COUNTER),
    ),
}


class Tree:
    """A copy of the sources, built with a sanitizer."""

    def __init__(self, name: str, sanitizer: Sanitizer):
        self.folder, self.sanitizer = ROOT / "build/sanitize" / name, sanitizer
        self.reports = self.folder / "build/reports"

    def copy(self) -> None:
        """Copies the sources. What was built from sources that have not changed is up to date."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in COPIED:
            source, target = ROOT / name, self.folder / name
            if source.is_dir():
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy2(source, target)

    def build(self) -> int:
        flags = {"CXX": CXX, "CXXFLAGS": self.sanitizer.flags, "LDFLAGS": self.sanitizer.flags}
        flags |= {"FRS_BUILD": "cpu", "FRS_DEBUG": "1" if self.sanitizer.debug else "0"}
        return self.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], flags)

    def build_emulated(self) -> int:
        """The CUDA sources, as tests/emulated.py compiles them."""
        flags = {"CXXFLAGS": f"-DFRS_DEBUG {self.sanitizer.flags}", "LDFLAGS": self.sanitizer.flags}
        return self.run([sys.executable, "tests/emulated.py"], flags)

    def test(self, tests: list[str]) -> int:
        shutil.rmtree(self.reports, ignore_errors=True)
        self.reports.mkdir(parents=True)
        options = {
            name: f"{value}:log_path={self.reports}/report" for name, value in self.sanitizer.options.items()
        }
        preloaded = ":".join(map(library, self.sanitizer.libraries))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
        command += ["-n", "logical", "--maxprocesses", "8", "--max-worker-restart", "2", *tests]
        status = self.run(command, {**options, "LD_PRELOAD": preloaded, "OMP_NUM_THREADS": "3"})
        found = sorted(self.reports.iterdir())
        for report in found:
            for line in report.read_text(errors="replace").splitlines():
                print(line[:200], file=sys.stderr)  # names of templates take thousands of columns
        return FOUND if found else status

    def run(self, command: list[str], changes: dict[str, str]) -> int:
        print("+", *(f"{name}={shlex.quote(value)}" for name, value in changes.items()), shlex.join(command))
        sys.stdout.flush()
        environment = {**os.environ, "PYTHONPATH": str(self.folder), **changes}
        return subprocess.run(command, cwd=self.folder, env=environment).returncode


def library(name: str) -> str:
    """The path of one of the compiler's libraries."""
    return subprocess.check_output([CXX, f"-print-file-name={name}"], text=True).strip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sanitizers", description=__doc__.splitlines()[0])
    parser.add_argument("sanitizer", choices=SANITIZERS)
    parser.add_argument(
        "tests", nargs="*", metavar="TEST", help="tests to run; by default, those chosen here"
    )
    options = parser.parse_args()
    sanitizer = SANITIZERS[options.sanitizer]
    tree = Tree(options.sanitizer, sanitizer)
    tree.copy()
    tests = [*(options.tests or sanitizer.tests)]
    if any(test.startswith(EMULATED) for test in tests) and (status := tree.build_emulated()):
        return status
    return tree.build() or tree.test(tests)


if __name__ == "__main__":
    raise SystemExit(main())
