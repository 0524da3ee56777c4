"""What `import frs_kernels` imports beside torch: so little that it costs next to nothing."""

import sys

import programs

FREE = {"frs_kernels", *sys.stdlib_module_names}


def test_the_package_imports_neither_other_packages_nor_more_of_torch():
    """TorchDynamo or Inductor would take as long as torch; kernels and integrations need other packages."""
    new = set(programs.output("new_modules.py", "frs_kernels").split())
    assert {"frs_kernels.ops", "frs_kernels.modules", "frs_kernels.backends.triton"} <= new
    assert not {name for name in new if name.partition(".")[0] not in FREE}
    later = ("frs_kernels.backends.triton.", "frs_kernels.integrations")
    assert not {name for name in new if name.startswith(later)}
