"""A C++ compiler that makes empty files, for tests of what is built and how it is packed.

stub_compiler.py ARCHITECTURE (-dumpmachine | --version | ... -o FILE ...)

It notes its arguments in commands.txt of the current folder, one line for each call that makes a file.
"""

import shlex
import sys
from pathlib import Path

architecture, *arguments = sys.argv[1:]
if arguments == ["-dumpmachine"]:
    print(f"{architecture}-linux-gnu")
elif arguments == ["--version"]:
    print("stub compiler")
else:
    Path(arguments[arguments.index("-o") + 1]).touch()
    with open("commands.txt", "a") as commands:
        commands.write(shlex.join(arguments) + "\n")
