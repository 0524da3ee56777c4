"""Plants faults in a copy of the working tree, one at a time, and reports whether the tests notice them.

    python -m tests.mutants [NAME ...]     # all of them, or those named
    python -m tests.mutants --list

The tests that a mutant names must pass in the unchanged copy. Then the fault is planted (and the CPU
library compiled, if the file is in csrc/), and one of these tests must fail; or, if the mutant names a
sanitizer, that has to find the fault while they run. The exit status is 1 if a fault survives or cannot be
tried.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.sanitizers import FOUND

from . import everything
from .mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]
BUILT = ("frs_kernels/*.so", "frs_kernels/build_info.json", "build")  # ignored by git, needed in the copy
PASSED, FAILED = 0, 1  # exit statuses of pytest


class Broken(Exception):
    """A mutant cannot be tried; the message says why."""


def files_of_the_tree() -> list[Path]:
    """The files that git tracks or would track, and what was built, relative to the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    built = (path.relative_to(ROOT) for pattern in BUILT for path in ROOT.glob(pattern))
    return [*map(Path, filter(None, listed.split("\0"))), *built]


class Copy:
    """A copy of the working tree in which faults are planted."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.passing: dict[tuple[tuple[str, ...], bool, str], float] = {}
        """How many seconds the tests took that have passed in the unchanged copy."""
        for path in files_of_the_tree():
            source, target = ROOT / path, folder / path
            if source.is_dir():
                shutil.copytree(source, target)
            elif source.exists():  # git also lists files that have been deleted
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)

    def try_(self, mutant: Mutant) -> bool:
        """Whether its tests notice the mutant. Raises Broken if it cannot be tried."""
        try:
            faulty = mutant.planted((self.folder / mutant.file).read_text())
        except (OSError, ValueError) as error:
            raise Broken(str(error)) from None
        tests = mutant.tests, mutant.interpreted, mutant.sanitizer
        if tests not in self.passing:
            start = time.monotonic()
            if self.test(mutant) != PASSED:
                raise Broken("its tests fail without the fault")
            self.passing[tests] = time.monotonic() - start
        with self.planted(mutant, faulty):
            try:
                status = self.test(mutant, limit=60 + 5 * self.passing[tests])
            except subprocess.TimeoutExpired:
                return not mutant.sanitizer
        if status not in (PASSED, FAILED, FOUND):
            raise Broken(f"the tests cannot run with the fault (pytest exits with status {status})")
        return status == (FOUND if mutant.sanitizer else FAILED)

    @contextlib.contextmanager
    def planted(self, mutant: Mutant, faulty: str) -> Iterator[None]:
        """Inside the context the fault is in the file, and in the libraries compiled from it."""
        path, libraries = self.folder / mutant.file, [*self.folder.glob("frs_kernels/*.so")]
        whole = path.read_text()
        compiled = mutant.file.startswith("csrc/") and not mutant.sanitizer  # sanitizers have their own build
        kept = {library: library.read_bytes() for library in libraries if compiled}
        path.write_text(faulty)
        try:
            if kept:
                self.build()
            yield
        finally:
            path.write_text(whole)
            for library, content in kept.items():
                library.unlink(missing_ok=True)  # a process may have mapped this file: write a new one
                library.write_bytes(content)

    def build(self) -> None:
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        if self.run(command, FRS_BUILD="cpu") != 0:
            raise Broken("the source does not compile with the fault")

    def test(self, mutant: Mutant, limit: float | None = None) -> int:
        """The exit status of its tests, or FOUND if they run with a sanitizer that finds something."""
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider"]
        if mutant.sanitizer:
            command = [sys.executable, "-m", "tests.sanitizers", mutant.sanitizer]
        changes = {"TRITON_INTERPRET": "1"} if mutant.interpreted else {}
        return self.run([*command, *mutant.tests], limit, **changes)

    def run(self, command: list[str], limit: float | None = None, **more: str) -> int:
        """The exit status of a command that runs in the copy.

        The command and all processes that it started are killed when it takes longer than ``limit`` seconds
        (subprocess.TimeoutExpired) and when this program is interrupted.
        """
        # Python reuses bytecode if the source has the same size and the same time in seconds: none is
        # written.
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", **more}
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            return process.wait(limit)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def chosen(names: list[str]) -> list[Mutant]:
    """The mutants with these names; all of them by default. Exits with status 2 for an unknown name."""
    known = {mutant.name: mutant for mutant in everything()}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"unknown mutant {', '.join(unknown)}; known: {', '.join(known)}", file=sys.stderr)
        raise SystemExit(2)
    return [known[name] for name in names or known]


def try_all(mutants: list[Mutant]) -> int:
    """Tries the mutants one after the other, prints each verdict, and returns the exit status."""
    verdicts: dict[str, str] = {}
    status = 0
    try:
        with tempfile.TemporaryDirectory(prefix="frs-mutants-") as folder:
            copy = Copy(Path(folder).resolve())
            for number, mutant in enumerate(mutants, start=1):
                print(f"[{number}/{len(mutants)}] {mutant.name} ({mutant.file}): ", end="", flush=True)
                start = time.monotonic()
                try:
                    verdict = "killed" if copy.try_(mutant) else f"SURVIVED {' '.join(mutant.tests)}"
                except Broken as error:
                    verdict = f"BROKEN: {error}"
                print(f"{verdict} ({time.monotonic() - start:.0f} s)", flush=True)
                verdicts[mutant.name] = verdict.split()[0]
    except KeyboardInterrupt:
        print("interrupted")
        status = 130
    killed = sum(verdict == "killed" for verdict in verdicts.values())
    print(f"{killed} of {len(verdicts)} planted faults killed")
    for name, verdict in verdicts.items():
        if verdict != "killed":
            print(f"  {verdict.lower().rstrip(':')}: {name}")
    return status or int(killed < len(verdicts))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to try; all of them by default")
    parser.add_argument("--list", action="store_true", help="print every name, its file and its tests")
    options = parser.parse_args()
    mutants = chosen(options.names)
    if options.list:
        for mutant in mutants:
            print(f"{mutant.name:40} {mutant.file:40} {' '.join(mutant.tests)}")
        return 0
    return try_all(mutants)


if __name__ == "__main__":
    raise SystemExit(main())
