"""The tutorial: its commands run, and print what the page shows."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "tutorial.py"


@pytest.fixture
def tutorial(tmp_path, monkeypatch):
    """The script, with a page of its own that a test writes."""
    spec = importlib.util.spec_from_file_location("tutorial", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAGE", tmp_path / "page.md")
    monkeypatch.chdir(tmp_path)
    return module


@pytest.mark.slow
def test_the_commands_of_the_page_work():
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


PAGE = """Text.

```console
$ frs-train make-digits data --train 40 \\
    --val 9 --size 32
Wrote nothing.
```

![Digits](tutorial/digits.png)<!-- data/images/val_000000.png -->
"""


def test_the_output_and_the_pictures_of_a_page_are_replaced(tutorial, tmp_path):
    tutorial.PAGE.write_text(PAGE)
    tutorial.rewrite()
    written = "Wrote 40 + 9 images and their annotations to data."
    assert tutorial.PAGE.read_text() == PAGE.replace("Wrote nothing.", written)
    assert (tmp_path / "page" / "digits.png").read_bytes().startswith(b"\x89PNG")
    tutorial.rewrite()
    assert tutorial.PAGE.read_text().count(written) == 1


def test_a_check_takes_less_and_changes_nothing(tutorial, tmp_path, capsys):
    tutorial.PAGE.write_text(PAGE)
    tutorial.check()
    assert tutorial.PAGE.read_text() == PAGE
    assert "$ frs-train make-digits data --train 16 --val 4 --size 32\n" in capsys.readouterr().out
    assert len(list((tmp_path / "data" / "images").iterdir())) == 20


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Wrote nothing.", "Made it.", "prints no line that begins with Made"),
        ("--size 32", "--size 1", "exit status 2"),
        ("images/val_000000", "images/val_000009", "no command writes data/images/val_000009.png"),
        ("$ frs-train make", "$ rm make", "the page may run frs-train only, not rm"),
    ],
)
def test_a_page_that_is_wrong_is_told(tutorial, old, new, words):
    tutorial.PAGE.write_text(PAGE.replace(old, new))
    with pytest.raises(SystemExit) as end:
        tutorial.check()
    assert words in str(end.value)


def test_long_output_is_abridged(tutorial):
    metrics = [f"[{k}/9]  loss {k}" for k in range(1, 10)]
    lines = ["first", *metrics, "x" * 200, "last"]
    assert tutorial.abridged("\n".join(lines)).splitlines() == [
        "first", *metrics[:2], "...", *metrics[-2:], "x" * 114 + " ...", "last",
    ]  # fmt: skip
