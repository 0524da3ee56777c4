"""The layers of frs_kernels: a module imports only what is below it."""

import imports
import pytest

MODULES = imports.modules("frs_kernels")
# From the bottom up. A package is one layer; its modules may import each other.
LAYERS = (
    "torch_private", "contract", "output", "layouts", "levels", "inputs", "checks", "library", "cpu_settings",
    "inductor",
    "reference", "autograd", "transforms", "backends", "dispatch", "ops", "kl", "modules", "integrations",
    "frs_kernels", "info",
)  # fmt: skip


def layer(module: str) -> int:
    """The position in LAYERS of a module named as in an import statement."""
    return LAYERS.index(module.split(".")[1] if "." in module else module)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module):
    in_a_package = MODULES[module].parent.name != "frs_kernels"
    for other in imports.imported(MODULES[module], MODULES.keys()):
        same_package = in_a_package and layer(other) == layer(module)
        assert layer(other) < layer(module) or same_package, f"{module} imports {other}"
