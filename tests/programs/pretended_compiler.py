"""Appends its arguments to the file commands.txt, and makes the file after -o, empty."""

import sys
from pathlib import Path

arguments = sys.argv[1:]
with Path("commands.txt").open("a") as commands:
    print(*arguments, file=commands)
if "-o" in arguments:
    Path(arguments[arguments.index("-o") + 1]).touch()
