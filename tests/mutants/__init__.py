"""Planted faults (mutants), each with the tests that must notice it. ``python -m tests.mutants`` tries them.

A module of this package with a tuple ``MUTANTS`` is a list of mutants.
"""

import importlib
import pkgutil

from .mutant import Mutant


def everything() -> list[Mutant]:
    """The mutants of all lists: modules by name, and each in its own order."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "__main__")
    lists = (importlib.import_module(f".{name}", __name__) for name in names)
    return [mutant for module in lists for mutant in getattr(module, "MUTANTS", ())]
