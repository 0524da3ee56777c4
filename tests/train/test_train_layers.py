"""The layers of frs_train that its docstring lists: no import from a higher layer and no import cycle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import frs_train

ROOT = Path(frs_train.__file__).parent
LAYERS = [line.split() for line in frs_train.__doc__.splitlines() if line.startswith("    ")]
FLOOR = {name: floor for floor, names in enumerate(LAYERS) for name in names}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported(module: str) -> set[str]:
    """The modules of the package that a module imports, including imports in functions and TYPE_CHECKING."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inside or {node.module}
    return found & MODULES.keys()


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
