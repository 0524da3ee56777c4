"""Prints what `import MODULE` adds to the modules that torch has imported: new_modules.py MODULE."""

import importlib
import sys

import torch  # noqa: F401

before = set(sys.modules)
importlib.import_module(sys.argv[1])
print(*sorted(set(sys.modules) - before), sep="\n")
