"""Whether this Python can run the GPU suite: ``python -m benchmarks.ready``.

Prints "ready" and which of "xdist" and "native" it has: tests in parallel, and native extensions that load.
Ends with status 1, and says what is missing, where the suite cannot run.
"""

import sys
from importlib.util import find_spec

NEEDED = {
    "torch": "torch", "pytest": "pytest", "hypothesis": "hypothesis", "pytest_benchmark": "pytest-benchmark",
    "pytest_timeout": "pytest-timeout",
}  # fmt: skip


def lacking() -> str | None:
    """Which packages this Python lacks, in a sentence, or None."""
    packages = [package for module, package in NEEDED.items() if find_spec(module) is None]
    return f"{sys.executable} lacks {', '.join(packages)}: pip install it" if packages else None


def problem() -> str | None:
    if reason := lacking():
        return f"{reason}, or name another: PYTHON=..."
    import torch

    return None if torch.cuda.is_available() else f"torch {torch.__version__} sees no GPU"


def main() -> int:
    trouble = problem()
    if trouble:
        print(trouble)
        return 1
    from frs_kernels.library import load_native

    reason = load_native("cpu") or load_native("cuda")
    print(reason or "", file=sys.stderr)
    found = ["xdist"] if find_spec("xdist") else []
    print("ready", *found, *([] if reason else ["native"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
