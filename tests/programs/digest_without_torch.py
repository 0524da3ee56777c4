"""Prints the digests of the CUDA sources where torch cannot be imported."""

import sys

sys.modules["torch"] = None

from benchmarks import sources  # noqa: E402

print(sources.digests("cuda"))
