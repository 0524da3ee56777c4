"""The list of planted faults does not rot. To plant them takes long and is done by hand: CONTRIBUTING.md."""

import ast
from pathlib import Path

import pytest
from mutants import everything
from mutants.__main__ import Broken, Copy, try_all
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
def test_text_that_does_not_stand_once_is_told(text):
    mutant = Mutant("m", "f.py", "once", "", ("t.py",))
    assert mutant.planted("only once") == "only "
    with pytest.raises(ValueError, match="m: its text stands [02] times in f.py, not once: 'once'"):
        mutant.planted(text)


@pytest.fixture
def copy(tmp_path, monkeypatch) -> Copy:
    """A tree of one module and its test in place of the repository's."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take longer than these tests
    monkeypatch.setattr("mutants.__main__.ROOT", tmp_path / "tree")
    monkeypatch.setattr("mutants.__main__.subprocess.run", _listing)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "double.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "tree" / "test_double.py").write_text(
        "from double import double\n\ndef test_double():\n    assert double(3) == 6\n\n"
        "def test_zero():\n    assert double(0) == 0\n\ndef test_red():\n    assert double(1) == 1\n"
    )
    return Copy(tmp_path / "copy")


def _listing(command, **_):
    class Done:
        stdout = "double.py\0test_double.py\0deleted.py\0"

    return Done


def mutant(test: str, new: str = "3 * x") -> Mutant:
    return Mutant("m", "double.py", "2 * x", new, (f"test_double.py::{test}",))


def test_a_fault_is_killed_or_survives_and_the_copy_is_whole_again(copy):
    whole = (copy.folder / "double.py").read_text()
    assert copy.try_(mutant("test_double")) is True
    assert copy.try_(mutant("test_zero")) is False
    assert (copy.folder / "double.py").read_text() == whole


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (mutant("test_red"), "its tests fail without it"),
        (mutant("test_double", new="2 * "), "with it the tests cannot be run"),
        (Mutant("m", "double.py", "4 * x", "", ("test_double.py",)), "its text stands 0 times"),
    ],
)
def test_what_cannot_be_tried_is_told(copy, broken, reason):
    with pytest.raises(Broken, match=reason):
        copy.try_(broken)


def test_one_that_survives_makes_the_exit_status_1(monkeypatch, capsys):
    class Pretended:
        def __init__(self, folder):
            pass

        def try_(self, mutant):
            if mutant.name == "broken":
                raise Broken("no compiler")
            return mutant.name == "killed"

    monkeypatch.setattr("mutants.__main__.Copy", Pretended)
    some = {name: Mutant(name, "f", "", "", ("t",)) for name in ("killed", "alive", "broken")}
    assert try_all([some["killed"]]) == 0
    assert try_all(list(some.values())) == 1
    printed = capsys.readouterr().out
    assert "[2/3] alive (f): SURVIVED t" in printed
    assert printed.endswith("1 of 3 planted faults killed\n  survived: alive\n  broken: broken\n")
