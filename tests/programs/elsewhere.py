"""Imports and runs the packages without what Windows and macOS lack, as far as Linux can show it.

elsewhere.py FOLDER      # an empty one, for a data set and runs

Taken away: the modules fcntl and resource, sched_getaffinity and pthread_sigmask, the folder /proc, opening a
folder, the compiled libraries, and the fork of loader processes. What belongs to neither package keeps them,
except filelock. A spawned process imports this file, and so lacks them too.
"""

import builtins
import multiprocessing
import os
import runpy
import signal
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from multiprocessing import resource_tracker
from pathlib import Path

import imports
import torch
import torch.utils.data

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = {"fcntl", "resource"}
OURS = ("frs_kernels", "frs_train", "toolchain", "filelock")
import_module, open_file, open_handle = builtins.__import__, builtins.open, os.open


def blocked_import(name, globals=None, *rest, **options):
    importing = ((globals or {}).get("__name__") or "").partition(".")[0]
    if name in BLOCKED and importing in OURS:
        raise ModuleNotFoundError(f"No module named {name!r}")
    return import_module(name, globals, *rest, **options)


def blocked_open(file, *rest, **options):
    if str(file).startswith("/proc/"):
        raise FileNotFoundError(file)
    return open_file(file, *rest, **options)


def blocked_handle(path, *rest, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return open_handle(path, *rest, **options)


builtins.__import__, builtins.open, os.open = blocked_import, blocked_open, blocked_handle
del os.sched_getaffinity, signal.pthread_sigmask
resource_tracker._HAVE_SIGMASK = False  # which it looked up when it was imported

from frs_kernels import library  # noqa: E402
from frs_kernels.backends import native  # noqa: E402

library.load_native = native.load_native = lambda device: "it is not built"


def import_all(package: str) -> int:
    """Imports every module of a package, except those that need Triton, a GPU or another library."""
    names = [n for n in imports.modules(package) if "triton." not in n and ".integrations." not in n]
    for name in names:
        if not name.endswith(("__main__", ".info")):  # run, not imported
            import_module(name)
    return len(names)


def small_loss() -> float:
    import frs_kernels as frs

    student = torch.ones(1, 2, 3, 3, requires_grad=True)
    loss = frs.weighted_mse(student, torch.zeros(1, 2, 3, 3), torch.ones(1, 3, 3))
    loss.backward()
    assert torch.allclose(student.grad, torch.full_like(student, 2 / 9))
    return loss.item()


def train(folder: Path) -> dict:
    """A teacher and a student of two iterations each, with a loader process that is spawned."""
    from tiny_runs import quiet_fit, run_config

    from frs_train.config import DistillConfig
    from frs_train.data.digits import make_digits

    make_digits(folder / "data", 8, 4, size=64)
    teacher = run_config(folder / "data", folder / "teacher", iterations=2, checkpoint_every=1)
    quiet_fit(teacher)
    student = run_config(
        folder / "data", folder / "student", iterations=2,
        distill=DistillConfig(teacher=str(folder / "teacher"), warmup_iters=0),
    )  # fmt: skip
    return quiet_fit(student, data=replace(student.data, workers=1))


def build_nothing() -> None:
    """`FRS_BUILD=none setup.py build`, as pip runs it."""
    os.environ["FRS_BUILD"] = "none"
    sys.argv = ["setup.py", "-q", "egg_info", "--egg-base", str(folder), "build", "-b", str(folder / "build")]
    os.chdir(ROOT)
    runpy.run_path("setup.py", run_name="__main__")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    multiprocessing.set_start_method("spawn")
    print("imported", import_all("frs_kernels"), import_all("frs_train"))
    print("loss", small_loss())
    runpy.run_module("frs_kernels.info", run_name="__main__")
    from frs_train.cli import main as command_line

    with redirect_stdout(StringIO()) as help_text:
        try:
            command_line.main(["--help"])
        except SystemExit as end:
            assert not end.code
    assert "distill" in help_text.getvalue()
    result = train(folder)
    print("trained", result["iterations"], "memory", result["memory_mb"])
    import_module("setuptools")
    build_nothing()
    assert (folder / "build" / "lib" / "frs_kernels" / "info.py").exists()
    print("built")
