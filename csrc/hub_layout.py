"""Lays out a built frs_kernels as the package `kernels` loads it from a folder: `make hub`, docs/hub.md.

    python csrc/hub_layout.py [--package PACKAGE] [--to FOLDER]

PACKAGE is a folder with the built package, by default that of this tree. FOLDER gets build/VARIANT/, once
with the CPU kernels alone and, where they are built, once with the CUDA kernels too. Nothing is compiled: the
operators' namespace is the name under which the package is imported. Standard library only.
"""

import argparse
import base64
import hashlib
import json
import platform
import re
import shutil
from pathlib import Path

import toolchain

ROOT = Path(__file__).resolve().parent.parent
NAME = "frs-kernels"
VERSION = 0  # of the public API, for the hub: 0 may still change
# Other packages may not be imported, and _host belongs to one version of Python.
LEFT_OUT = ("integrations", "_host.*", "__pycache__", "*.pyc")
METADATA, BUILD_INFO = "metadata.json", "build_info.json"


def lay_out(package: Path, folder: Path) -> list[Path]:
    """Writes the variants of a built package, and returns their folders."""
    if not (package / "_native_cpu.so").exists() or not (package / BUILD_INFO).exists():
        toolchain.stop(f"{package} has no CPU kernels to lay out.", "Build them: make .venv/built")
    for old in folder.glob("build/torch-stable-abi*"):
        shutil.rmtree(old)
    info = json.loads((package / BUILD_INFO).read_text())
    variants = [_variant(package, folder, info, "cpu", "cpu", ["_native_cuda.so"])]
    if (package / "_native_cuda.so").exists():
        major, minor = re.search(r"cuda_(\d+)\.(\d+)", info["nvcc"]).groups()
        variants.append(_variant(package, folder, info, "cuda", f"cu{major}{minor}", []))
    return variants


def _variant(package, folder, info, backend, tag, left_out) -> Path:
    abi = int(info["target_abi"], 16)
    torch = f"{abi >> 56}{abi >> 48 & 0xFF}"
    target = folder / "build" / f"torch-stable-abi{torch}-{tag}-{platform.machine()}-linux"
    shutil.copytree(package, target, ignore=shutil.ignore_patterns(*LEFT_OUT, *left_out))
    files = digests(target)
    metadata = {
        "name": NAME,
        "id": f"_frs_kernels_{backend}_{_digest_of(files)}",
        "version": VERSION,
        "license": "Apache-2.0",
        "python-depends": [],
        "backend": {"type": backend} | ({"archs": info["cuda_archs"]} if backend == "cuda" else {}),
        "digest": {"algorithm": "sha256", "files": files},
    }
    (target / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
    return target


def digests(variant: Path) -> dict[str, str]:
    """The SHA-256 of each file in base64, by its path, as the hub's metadata have it."""
    files = sorted(path for path in variant.rglob("*") if path.is_file())
    return {
        file.relative_to(variant).as_posix(): base64.b64encode(
            hashlib.sha256(file.read_bytes()).digest()
        ).decode()
        for file in files
    }


def _digest_of(files: dict[str, str]) -> str:
    """Names a build by its code. What else is in build_info.json, such as the time, makes no difference."""
    code = {name: digest for name, digest in files.items() if name != BUILD_INFO}
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--package", type=Path, default=ROOT / "frs_kernels", help="a built package")
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "hub" / NAME, metavar="FOLDER")
    options = parser.parse_args()
    for variant in lay_out(options.package, options.to):
        print(variant)


if __name__ == "__main__":
    main()
