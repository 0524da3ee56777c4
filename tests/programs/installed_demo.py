"""A small demo by the command of the installed distribution, after an import of all its modules.

installed_demo.py FOLDER                # for the results

Prints the folder of each package, and which files of weights the imports and the demo have opened.
"""

import importlib
import pkgutil
import sys
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

opened: set[str] = set()


def note(event: str, arguments: tuple) -> None:
    if event == "open" and str(arguments[0]).endswith(".pt"):
        opened.add(Path(arguments[0]).name)


def import_all(package: str) -> None:
    """Imports every module of a package, except those that need Triton or another library."""
    top = importlib.import_module(package)
    print(package, "in", Path(top.__file__).parent)
    for module in pkgutil.walk_packages(top.__path__, f"{package}."):
        if ".integrations." not in module.name and ".triton." not in module.name:
            importlib.import_module(module.name)


if __name__ == "__main__":  # the loader processes may import this file
    sys.addaudithook(note)
    import_all("frs_kernels")
    import_all("frs_train")
    print("imports opened", *opened)

    from frs_train import demo

    made = demo.digits
    demo.digits = lambda folder, **options: made(folder, **{**options, "train": 16, "val": 6})
    demo.STUDENT_TRAIN = replace(demo.STUDENT_TRAIN, threads=1)
    command = distribution("frs-kernels").entry_points["frs-train"].load()
    sys.argv[1:] = ["demo", "--out", sys.argv[1], "--iterations", "2"]
    status = command()
    print("the demo opened", *sorted(opened))
    raise SystemExit(status)
