"""Checks whether this Python can run the GPU suite: ``python -m benchmarks.preflight``.

Prints "ready", and "xdist" if tests can run in parallel and "native" if the native extensions load. Where the
suite cannot run, prints the reason and exits with status 1.
"""

import sys
from importlib.util import find_spec

REQUIRED = {
    "torch": "torch", "pytest": "pytest", "hypothesis": "hypothesis", "pytest_benchmark": "pytest-benchmark",
    "pytest_timeout": "pytest-timeout",
}  # fmt: skip


def missing_packages() -> str | None:
    """A sentence that names the packages this Python lacks, or None."""
    packages = [package for module, package in REQUIRED.items() if find_spec(module) is None]
    return f"{sys.executable} lacks {', '.join(packages)}: pip install it" if packages else None


def problem() -> str | None:
    """Why the suite cannot run, or None."""
    if missing := missing_packages():
        return f"{missing}, or choose another Python: PYTHON=..."
    import torch

    return None if torch.cuda.is_available() else f"torch {torch.__version__} sees no GPU"


def main() -> int:
    if reason := problem():
        print(reason)
        return 1
    from frs_kernels.library import load_native

    not_loaded = load_native("cpu") or load_native("cuda")
    print(not_loaded or "", file=sys.stderr)
    parallel = ["xdist"] if find_spec("xdist") else []
    print("ready", *parallel, *([] if not_loaded else ["native"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
