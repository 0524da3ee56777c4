"""``python csrc/older_glibc.py FOLDER``: what to link with, so that a library runs with glibc 2.28 and later.

A linker takes the newest version of every symbol that this machine's glibc has, and the library then needs
that version. Zig (pip install ziglang) knows the symbols of every version, and makes stubs of glibc 2.28 that
have no code. LDFLAGS=-LFOLDER links with them. The target is that of CXX. For a cross-compiler the folder has
an empty libtorch_cpu.so too, because the installed one is of another architecture.
"""

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import toolchain

GLIBC = "2.28"  # of manylinux_2_28, like torch itself
PARTS = ("c", "m", "dl", "rt", "pthread")


def run(*command: str, **environment: str) -> str:
    environment = {**os.environ, **environment}
    done = subprocess.run(command, env=environment, check=True, text=True, stdout=subprocess.PIPE)
    return done.stdout.strip()


def make_stubs(machine: str, folder: Path) -> None:
    """Puts libc.so.6, libm.so, ... of GLIBC into the folder."""
    if not importlib.util.find_spec("ziglang"):
        toolchain.stop("Zig is missing.", "Install it and try again: pip install ziglang")
    with tempfile.TemporaryDirectory() as cache:
        empty = Path(cache, "empty.c")
        empty.touch()
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.{GLIBC}", "-shared"]
        caches = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        run(*zig, str(empty), "-o", f"{cache}/empty.so", **caches)
        for part in PARTS:
            stub = next(Path(cache).rglob(f"lib{part}.so.*"))
            shutil.copy(stub, folder / (stub.name if part == "c" else f"lib{part}.so"))


def make_script(cxx: list[str], folder: Path) -> None:
    """libc.so is a script for the linker: this machine's, with the stub in place of its libc.so.6."""
    script = Path(run(*cxx, "-print-file-name=libc.so")).read_text()
    (folder / "libc.so").write_text(re.sub(r"\S*/libc\.so\.6", str(folder / "libc.so.6"), script))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cxx = shlex.split(toolchain.find_cxx())
    machine = toolchain.target_machine(shlex.join(cxx))
    make_stubs(machine, folder)
    make_script(cxx, folder)
    if machine != platform.machine():
        name = "libtorch_cpu.so"
        run(*cxx, "-shared", f"-Wl,-soname,{name}", "-x", "c++", os.devnull, "-o", str(folder / name))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
