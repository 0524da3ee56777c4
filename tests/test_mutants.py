"""The list of planted faults fits the sources, and the program that tries them judges correctly.

Planting them all takes up to an hour and is done by hand: see CONTRIBUTING.md.
"""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import everything
from mutants.__main__ import FAILED, FOUND, PASSED, Broken, Copy, files_of_the_tree, try_all
from mutants.mutant import Mutant

ROOT = Path(__file__).parents[1]
MUTANTS = everything()


def test_no_two_mutants_have_one_name():
    names = [mutant.name for mutant in MUTANTS]
    assert names
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_applies_and_its_tests_exist(mutant):
    before = (ROOT / mutant.file).read_text()
    after = mutant.planted(before)
    assert after != before
    if mutant.file.endswith(".py"):
        ast.parse(after)
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        content = (ROOT / file).read_text()
        wanted = f"def {name.partition('[')[0]}(" if name else "def test_"
        assert wanted in content, test


@pytest.mark.parametrize("text", ["nothing of it", "once, and once more"])
def test_text_that_does_not_occur_once_is_refused(text):
    mutant = Mutant("m", "f.py", "once", "", ("t.py",))
    assert mutant.planted("only once") == "only "
    with pytest.raises(ValueError, match="m: its text occurs [02] times in f.py instead of once: 'once'"):
        mutant.planted(text)


CHECKS = {
    "is_2": lambda limit: limit == 2,
    "is_positive": lambda limit: limit > 0,
    "is_1": lambda limit: limit == 1,
}
TEXT = "limit = 2\n"


def pretended_pytest(copy, command, limit=None, **_):
    """The status of pytest if its tests were CHECKS of the number in limit.ini; pytest does not run."""
    assert command[:3] == [sys.executable, "-m", "pytest"]
    names = [argument.partition("::")[2] for argument in command if "::" in argument]
    try:
        value = int((copy.folder / "limit.ini").read_text().partition("=")[2])
    except ValueError:
        return 2
    if value > 100:
        raise subprocess.TimeoutExpired(command, limit)
    return PASSED if all(CHECKS[name](value) for name in names) else FAILED


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Copy:
    """A copy of a tree that consists of limit.ini, instead of the repository's."""
    monkeypatch.setattr("mutants.__main__.ROOT", tmp_path / "tree")
    monkeypatch.setattr("mutants.__main__.files_of_the_tree", lambda: [Path("limit.ini"), Path("gone.ini")])
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "limit.ini").write_text(TEXT)
    return Copy(tmp_path / "copy")


@pytest.fixture
def without_pytest(monkeypatch):
    monkeypatch.setattr(Copy, "run", pretended_pytest)


def mutant(check: str, old="= 2", new="= 3") -> Mutant:
    return Mutant("m", "limit.ini", old, new, (f"test_limit.py::{check}",))


def test_a_fault_is_killed_or_survives_and_the_copy_is_whole_again(copy, without_pytest):
    assert copy.try_(mutant("is_2")) is True
    assert copy.try_(mutant("is_positive")) is False
    assert (copy.folder / "limit.ini").read_text() == TEXT


def test_tests_that_do_not_end_with_the_fault_have_killed_it(copy, without_pytest):
    assert copy.try_(mutant("is_positive", new="= 1000")) is True
    assert (copy.folder / "limit.ini").read_text() == TEXT


def test_a_sanitizer_has_to_find_its_fault_itself(copy, monkeypatch):
    statuses, commands = iter([PASSED, FAILED, FOUND]), []
    monkeypatch.setattr(Copy, "run", lambda _, command, *__: commands.append(command) or next(statuses))
    fault = dataclasses.replace(mutant("is_2"), sanitizer="thread")
    assert copy.try_(fault) is False  # the tests fail, and the sanitizer is silent
    assert copy.try_(fault) is True
    assert [command[1:4] for command in commands] == [["-m", "tests.sanitizers", "thread"]] * 3


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (mutant("is_1"), "its tests fail without the fault"),
        (mutant("is_2", new="= two"), "the tests cannot run with the fault .pytest exits with status 2"),
        (mutant("is_2", old="= 4"), "its text occurs 0 times"),
    ],
)
def test_a_mutant_that_cannot_be_tried_says_why(copy, without_pytest, broken, reason):
    with pytest.raises(Broken, match=reason):
        copy.try_(broken)


def test_a_command_in_the_copy_has_its_status_and_its_time(copy):
    assert copy.run(["test", "-f", "limit.ini"]) == 0
    assert copy.run(["test", "-f", "gone.ini"]) == 1
    with pytest.raises(subprocess.TimeoutExpired):
        copy.run(["sleep", "60"], limit=0.1)


def test_the_copy_is_of_every_file_that_git_lists():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    assert {Path("setup.py"), Path("tests/test_mutants.py")} <= set(files_of_the_tree())


def test_one_that_survives_makes_the_exit_status_1(monkeypatch, capsys):
    class Pretended:
        def __init__(self, folder):
            pass

        def try_(self, mutant):
            if mutant.name == "broken":
                raise Broken("no compiler")
            return mutant.name == "killed"

    monkeypatch.setattr("mutants.__main__.Copy", Pretended)
    mutants = {name: Mutant(name, "f", "", "", ("t",)) for name in ("killed", "alive", "broken")}
    assert try_all([mutants["killed"]]) == 0
    assert try_all(list(mutants.values())) == 1
    printed = capsys.readouterr().out
    assert "[2/3] alive (f): SURVIVED t" in printed
    assert printed.endswith("1 of 3 planted faults killed\n  survived: alive\n  broken: broken\n")
