"""Prints the notes of a release from CHANGELOG.md, for the release that the tag names.

    python .github/release_notes.py v0.2.0

The status is 1, with the reason, unless the tag, ``frs_kernels.__version__``, CHANGELOG.md and CITATION.cff
name one version and nothing is left under "Unreleased".
"""

import re
import sys
from pathlib import Path


def package_version(root: Path) -> str:
    """``frs_kernels.__version__``, read without an import: there is no torch where a release is checked."""
    source = (root / "frs_kernels/__init__.py").read_text()
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)[1]


def citation_version(root: Path) -> str:
    return re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text(), re.MULTILINE)[1]


def sections(root: Path) -> dict[str, str]:
    """The text under each heading of CHANGELOG.md, by the version in it or "Unreleased"."""
    parts = re.split(r"^## (\S+).*\n", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def notes(tag: str, root: Path) -> str:
    version, changes = package_version(root), sections(root)
    if tag != f"v{version}":
        sys.exit(f"the tag is {tag}, and frs_kernels.__version__ asks for v{version}")
    if citation_version(root) != version:
        sys.exit(f"CITATION.cff is of version {citation_version(root)}, and frs_kernels of {version}")
    if changes.get("Unreleased"):
        sys.exit(f'CHANGELOG.md has changes under "Unreleased": move them under {version}')
    if not changes.get(version):
        sys.exit(f"CHANGELOG.md has nothing under {version}")
    return changes[version]


if __name__ == "__main__":
    print(notes(sys.argv[1], Path(__file__).resolve().parent.parent))
