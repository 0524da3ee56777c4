"""What is said about GPUs on which a backend cannot run, and which backend is taken there.

The GPUs only appear to be there (tests/programs/faked_gpus.py).
"""

import os
import re
import shutil
import sys

import programs
import pytest
from cases import INTERPRETED

pytest.importorskip("triton", reason="needs triton")
if INTERPRETED:
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from frs_kernels.backends.triton import toolchain  # noqa: E402


def report(lacking: str, archs: str, *gpus: str, **environment: str) -> dict[str, str]:
    """What the program says of each device, as a text that begins with the backend that runs; "backends"."""
    text = programs.output("faked_gpus.py", lacking, archs, *gpus, **environment)
    parts = {part.partition("\n")[0]: part.partition("\n")[2] for part in text.split("\n\n")}
    return parts | {"backends": text.rpartition("\nbackends\n")[2]}


def line(text: str, name: str) -> str:
    """What a report says of one backend."""
    return next(line for line in text.splitlines() if line.split(":")[0].split()[0] == name)


def test_some_of_several_gpus_have_code():
    said = report("nothing", "8.0,9.0", "9.0", "7.5", "6.1", "6.1")
    assert said["cuda:0"].startswith("native: runs")
    assert said["cuda:1"].startswith("triton: runs")
    assert "built for 8.0, 9.0 and this GPU has compute capability 7.5" in line(said["cuda:1"], "native")
    assert said["cuda:2"].startswith("eager: runs")
    assert "7.0 or later, and this GPU has 6.1" in line(said["cuda:2"], "triton")
    assert "capability 6.1" in said["without an index"], "the current GPU is the last"
    native, triton = line(said["backends"], "native"), line(said["backends"], "triton")
    assert re.search(r"runs on (cpu, )?cuda:0; ", native)
    assert "not on cuda:2, cuda:3: the CUDA kernels were built for 8.0, 9.0" in native
    assert "runs on cuda:0, cuda:1; not on cpu: " in triton and "not on cuda:2, cuda:3: Triton" in triton


@pytest.mark.parametrize(
    ("lacking", "gpu", "reason"),
    [
        ("nothing", "6.1", "Triton's code needs compute capability 7.0"),
        ("headers", "9.0", "Triton needs Python's headers"),
        ("ptxas", "10.0", "Triton compiles with ptxas, which cannot be run"),
    ],
)
def test_auto_passes_over_triton_where_it_compiles_nothing(lacking, gpu, reason):
    said = report(lacking, "none", gpu)
    assert said["cuda:0"].startswith("eager: runs") and "it is not built" in line(said["cuda:0"], "native")
    assert reason in line(said["cuda:0"], "triton") and reason in line(said["backends"], "triton")


# What Triton needs, in this process.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Triton's cache, a folder that does not exist yet."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def no_programs(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def test_the_checks_leave_nothing_behind(cache):
    if not (shutil.which("gcc") or shutil.which("clang")):
        pytest.skip("needs a C compiler")
    assert toolchain.cannot_compile() is None
    assert not cache.exists()


def test_a_compiler_is_needed(cache, no_programs, monkeypatch):
    assert "needs a C compiler" in toolchain.cannot_compile()
    monkeypatch.setenv("CC", "my-cc")
    assert "no program 'my-cc'" in toolchain.cannot_compile()
    monkeypatch.setenv("CC", sys.executable)
    assert toolchain.cannot_compile() is None
    monkeypatch.delenv("CC")
    monkeypatch.setattr(toolchain.knobs.build, "impl", lambda *_: "compiled")
    assert toolchain.cannot_compile() is None


def test_a_cache_is_needed(cache, monkeypatch):
    monkeypatch.setenv("CC", sys.executable)
    cache.write_text("a file where the folder should be")
    for folder in (cache, cache / "below"):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(folder))
        assert f"cannot write to its cache {str(folder)!r}" in toolchain.cannot_compile()
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    assert "cannot write to its cache ''" in toolchain.cannot_compile()
    monkeypatch.delenv("TRITON_CACHE_DIR")
    monkeypatch.setenv("TRITON_HOME", str(cache))
    assert f"cannot write to its cache {str(cache / '.triton/cache')!r}" in toolchain.cannot_compile()


def test_a_folder_without_permission_is_no_cache(cache, monkeypatch):
    monkeypatch.setenv("CC", sys.executable)
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != cache.parent and allowed(path, mode))
    assert "cannot write to its cache" in toolchain.cannot_compile()


def test_a_filled_cache_makes_up_for_a_compiler(cache, no_programs):
    for file in ("__grp__loss_kernel.json", "cuda_utils.so"):
        assert "needs a C compiler" in toolchain.cannot_compile()
        (cache / file).mkdir(parents=True)
        (cache / file / file).touch()
    assert toolchain.cannot_compile() is None
