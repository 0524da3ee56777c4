"""The layers of frs_train that its docstring lists: no import from a higher layer and no import cycle."""

from graphlib import CycleError, TopologicalSorter

import imports
import pytest

import frs_train

LAYERS = [line.split() for line in frs_train.__doc__.splitlines() if line.startswith("    ")]
FLOOR = {name: floor for floor, names in enumerate(LAYERS) for name in names}
MODULES = imports.modules("frs_train")


def imported(module: str) -> set[str]:
    return imports.imported(MODULES[module], MODULES.keys())


def floor(module: str) -> int:
    return FLOOR[module.split(".")[1]]


def test_every_module_has_a_layer():
    names = {module.split(".")[1] for module in MODULES if module != "frs_train"}
    assert names == set(FLOOR) and len(FLOOR) == sum(map(len, LAYERS))


@pytest.mark.parametrize("module", [module for module in MODULES if module != "frs_train"])
def test_no_module_imports_from_a_higher_layer(module):
    below = imported(module) - {"frs_train"}
    assert [other for other in sorted(below) if floor(other) > floor(module)] == []


def test_there_are_no_import_cycles():
    try:
        TopologicalSorter({module: imported(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
