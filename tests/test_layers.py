"""The layers of frs_kernels: a module imports only what stands below it."""

import ast
from pathlib import Path

import pytest

import frs_kernels

FOLDER = Path(frs_kernels.__file__).parent
# From the bottom up. A package is one layer; its modules may import each other.
LAYERS = (
    "contract", "layouts", "levels", "inputs", "checks", "library", "inductor", "reference", "backends",
    "dispatch", "autograd", "ops", "modules", "integrations", "__init__", "info",
)  # fmt: skip


def layer(module: str) -> int:
    """The position in LAYERS of a module named as in an import statement."""
    parts = module.split(".")
    return LAYERS.index(parts[1] if len(parts) > 1 else "__init__")


def imported(source: Path) -> list[str]:
    """The modules of frs_kernels that a file imports, also within functions."""
    modules = []
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "frs_kernels":
            modules += [f"frs_kernels.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module)
    return [module for module in modules if module.partition(".")[0] == "frs_kernels"]


@pytest.mark.parametrize(
    "source", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER))
)
def test_imports_point_downwards(source):
    path = source.relative_to(FOLDER).with_suffix("").parts
    own = LAYERS.index(path[0])
    for module in imported(source):
        assert layer(module) < own or (len(path) > 1 and layer(module) == own), f"{source} imports {module}"
