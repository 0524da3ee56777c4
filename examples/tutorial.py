"""Runs the commands of docs/tutorial.md, which is the truth: this file has none of its own.

python examples/tutorial.py            # 3 minutes: replaces the output on the page, and its pictures
python examples/tutorial.py --check    # less of everything: do the commands work, and print the same?

Both take --folder FOLDER, a new one, to keep the files that the commands write.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from frs_train.cli.main import main as frs_train

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)
PICTURE = re.compile(r"!\[[^]]*\]\(tutorial/([\w.-]+)\)<!-- (\S+) -->")  # the second is a command's file
LESS = {"--train": "16", "--val": "4", "--iterations": "6", "--log-every": "3", "--seconds": "0.01"}
WIDTH = 118  # columns of a page
SHOWN = 2  # lines of metrics at the start and at the end of a training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with working_in(folder):
            check() if options.check else rewrite()


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """`contextlib.chdir` of Python 3.11."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def rewrite() -> None:
    """Runs the commands of the page in the current folder, and writes their output and pictures."""
    text = PAGE.read_text()
    written = BLOCK.sub(rerun, text)
    PAGE.with_suffix("").mkdir(exist_ok=True)
    for name, file in PICTURE.findall(text):
        shutil.copy(file, PAGE.with_suffix("") / name)
    PAGE.write_text(written)


def check() -> None:
    """Runs shorter commands in the current folder. Ends the program if one fails or does not print what the
    page shows, or if a picture is missing."""
    text = PAGE.read_text()
    for block in BLOCK.findall(text):
        for command, output in commands(block):
            gone = sentences(output) - sentences(run(command, less))
            if gone:
                sys.exit(f"{PAGE}: {command}\nprints no line that begins with {', '.join(sorted(gone))}")
    missing = [file for _, file in PICTURE.findall(text) if not Path(file).is_file()]
    if missing:
        sys.exit(f"{PAGE}: no command writes {', '.join(missing)}")


def commands(block: str) -> list[tuple[str, str]]:
    """The commands of a block, each with the output below it."""
    parts = COMMAND.split(block)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def rerun(block: re.Match[str]) -> str:
    """The block with the output that its commands print now."""
    new = [f"$ {command}\n{abridged(run(command))}" for command, _ in commands(block[1])]
    return f"```console\n{''.join(new)}```"


def less(words: list[str]) -> list[str]:
    """The words of a command with smaller numbers."""
    return [LESS.get(before, word) for before, word in zip(["", *words], words, strict=False)]


def run(command: str, change: Callable[[list[str]], list[str]] = list) -> str:
    """What a command prints. All run in this process, which imports torch once. Ends the program if one
    fails."""
    words = change(shlex.split(command.replace("\\\n", " ")))
    if words[0] != "frs-train":
        sys.exit(f"{PAGE}: the page may run frs-train only, not {words[0]}")
    print("$", shlex.join(words), flush=True)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = frs_train(words[1:])
    print(output.getvalue(), flush=True)
    if status:
        sys.exit(f"{PAGE}: exit status {status} of {command}")
    return output.getvalue()


def abridged(output: str) -> str:
    """The output with a few lines of the metrics of a training, each no wider than the page."""
    lines = [line.rstrip() for line in output.splitlines()]
    metrics = [number for number, line in enumerate(lines) if line.startswith("[")]
    for number in metrics[SHOWN:-SHOWN]:
        lines[number] = "..." if number == metrics[SHOWN] else ""
    kept = (line for line in lines if line)
    return "".join(f"{line if len(line) <= WIDTH else line[: WIDTH - 4] + ' ...'}\n" for line in kept)


def sentences(output: str) -> set[str]:
    """The first words of the lines that begin with a capital letter: what does not depend on the machine."""
    return {line.split()[0] for line in output.splitlines() if line[:1].isupper()}


if __name__ == "__main__":
    main()
