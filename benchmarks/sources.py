"""Which files make the kernels, and a digest of them. Without torch, so that it takes no time.

``python -m benchmarks.sources cuda`` prints one digest of all that runs on that device.
"""

import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The files whose change makes a number stale, for each fused provider on each device.
_PYTHON = ("frs_kernels/autograd.py",)
_SHARED = (*_PYTHON, "csrc/include/**/*", "csrc/bind/*.h")
SOURCES = {
    "native-cpu": (*_SHARED, "csrc/cpu/**/*", "csrc/bind/cpu*.cpp"),
    "native-cuda": (*_SHARED, "csrc/cuda/**/*", "csrc/bind/cuda*.cpp"),
    "triton-cuda": (*_PYTHON, "frs_kernels/backends/triton/**/*.py"),
}


def digests(device: str, root: Path = ROOT) -> dict[str, str]:
    """Digest of the kernel sources by provider, for the providers of a device."""
    return {name: _digest(root, globs) for name, globs in SOURCES.items() if name.endswith("-" + device)}


def _digest(root: Path, globs: tuple[str, ...]) -> str:
    found = hashlib.sha256()
    files = {file for pattern in globs for file in root.glob(pattern) if file.is_file()}
    for file in sorted(files):
        found.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()[:12]


if __name__ == "__main__":
    print(hashlib.sha256("".join(digests(sys.argv[1]).values()).encode()).hexdigest()[:8])
