"""Planted faults, each with the tests that have to notice it; ``python -m tests.mutants`` tries them.

Every module here with a tuple ``MUTANTS`` is a list of them.
"""

import importlib
import pkgutil

from .mutant import Mutant


def everything() -> list[Mutant]:
    """The mutants of all lists, by module and then in the order that they stand in."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "__main__")
    lists = (importlib.import_module(f".{name}", __name__) for name in names)
    return [mutant for module in lists for mutant in getattr(module, "MUTANTS", ())]
