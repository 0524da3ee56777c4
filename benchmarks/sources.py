"""Which files make the kernels, and a digest of their code. Without torch, so that it takes no time.

Comments and docstrings do not count, as no compiler sees them, nor does the Python around the kernels.

``python -m benchmarks.sources cuda`` prints :func:`digest` of that device.
"""

import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The files whose change makes a number stale, for each fused provider on each device.
_SHARED = ("csrc/include/**/*", "csrc/bind/*")
SOURCES = {
    "native-cpu": (*_SHARED, "csrc/cpu/**/*", "csrc/bind/cpu/*"),
    "native-cuda": (*_SHARED, "csrc/cuda/**/*", "csrc/bind/cuda/*"),
    "triton-cuda": ("frs_kernels/backends/triton/**/*.py",),
}

_STRINGS = r'"""(?:.|\n)*?"""|"(?:\\.|[^"\\\n])*"|' + r"'(?:\\.|[^'\\\n])*'"
_CPP = re.compile(rf"//[^\n]*|/\*(?:.|\n)*?\*/|({_STRINGS})")
_PYTHON = re.compile(rf'#[^\n]*|^[ \t]*"""(?:.|\n)*?"""|({_STRINGS})', re.MULTILINE)


def digests(device: str, root: Path = ROOT) -> dict[str, str]:
    """Digest of the kernel sources by provider, for the providers of a device."""
    return {name: digest_of(root, globs) for name, globs in SOURCES.items() if name.endswith("-" + device)}


def digest(device: str) -> str:
    """One digest of all kernels of a device."""
    return hashlib.sha256("".join(digests(device).values()).encode()).hexdigest()[:8]


def digest_of(root: Path, globs: tuple[str, ...]) -> str:
    """Digest of the names and the code of the files that match."""
    found = hashlib.sha256()
    files = {file for pattern in globs for file in root.glob(pattern) if file.is_file()}
    for file in sorted(files):
        code = code_of(file.read_text(), python=file.suffix == ".py")
        found.update(f"{file.relative_to(root)}\0{code}\0".encode())
    return found.hexdigest()[:12]


def code_of(text: str, python: bool) -> str:
    """The lines of a file without comments, docstrings and what is blank."""
    bare = (_PYTHON if python else _CPP).sub(lambda match: match[1] or "", text)
    return "\n".join(line.rstrip() for line in bare.splitlines() if line.strip())


if __name__ == "__main__":
    print(digest(sys.argv[1]))
