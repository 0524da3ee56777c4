"""What is built for the GPU suite on another machine: packed, unpacked there, and used."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import programs
import pytest

from benchmarks import gpu_programs, prebuild
from frs_kernels.backends import triton

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A tree in which everything is built."""
    root = tmp_path / "tree"
    for name in prebuild.MEMBERS:
        file = root / (f"{name}/key/k.cubin" if name == prebuild.TRITON_CACHE else name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    monkeypatch.setattr(prebuild, "ROOT", root)
    monkeypatch.setattr(prebuild, "ARCHIVE", root / "prebuilt.tar.xz")
    return root


def elsewhere(tree: Path, monkeypatch) -> Path:
    """Another tree with nothing but the archive."""
    other = tree.parent / "elsewhere"
    other.mkdir()
    shutil.copy(prebuild.ARCHIVE, other)
    monkeypatch.setattr(prebuild, "ROOT", other)
    monkeypatch.setattr(prebuild, "ARCHIVE", other / "prebuilt.tar.xz")
    return other


def files(folder: Path) -> dict[str, str]:
    members = [file for file in folder.rglob("*") if file.is_file() and file.name != "prebuilt.tar.xz"]
    return {str(file.relative_to(folder)): file.read_text() for file in members}


def test_unpacks_what_was_packed(tree, monkeypatch, capsys):
    prebuild.pack("9.0")
    other = elsewhere(tree, monkeypatch)
    prebuild.unpack("9.0")
    assert files(other) == files(tree) and len(files(other)) == len(prebuild.MEMBERS)
    assert {"build/gpu_check", "build/gpu_patterns", "build/variants/four-warps"} <= files(other).keys()
    assert "unpacked" in capsys.readouterr().out


def test_what_is_of_another_gpu_or_other_sources_is_left_alone(tree, monkeypatch, capsys):
    prebuild.pack("9.0")
    other = elsewhere(tree, monkeypatch)
    prebuild.unpack("8.0")
    monkeypatch.setattr(gpu_programs, "digest", lambda device: "changed")
    prebuild.unpack("9.0")
    assert files(other) == {}
    first, second = capsys.readouterr().out.splitlines()
    assert '"capability": "9.0"' in first and '"capability": "8.0"' in first and "changed" in second


def test_an_archive_that_was_cut_off_is_named(tree, monkeypatch):
    prebuild.pack("9.0")
    other = elsewhere(tree, monkeypatch)
    whole = prebuild.ARCHIVE.read_bytes()
    prebuild.ARCHIVE.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit, match="prebuilt.tar.xz cannot be read"):
        prebuild.unpack("9.0")
    with tarfile.open(prebuild.ARCHIVE, "w:xz"):
        pass
    with pytest.raises(SystemExit, match="cannot be read"):
        prebuild.unpack("9.0")
    assert files(other) == {}


def test_nothing_to_unpack_is_no_error(tree):
    before = files(tree)
    prebuild.unpack("9.0")
    assert files(tree) == before


@pytest.mark.parametrize("text", ["90", "sm_90", "9.x", ""])
def test_a_capability_that_is_none_is_refused(text):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.prebuild", "make", text], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "is not a compute capability" in done.stderr


@pytest.mark.slow
def test_the_triton_cache_is_hit_in_another_folder(tmp_path):
    """Kernels of the GPU tests and of the benchmarks, compiled in one tree and looked up in another."""
    pytest.importorskip("triton", reason="needs triton")
    if triton.unavailable() is None:
        pytest.skip("there is a GPU, or the interpreter runs: nothing has to be pretended")
    trees = [tmp_path / "here", tmp_path / "there"]
    for folder in trees:
        folder.mkdir()
        for name in ("benchmarks", "frs_kernels", "tests"):
            (folder / name).symlink_to(ROOT / name)

    def compiled(folder: Path) -> int:
        path = os.pathsep.join([str(folder), str(folder / "tests")])
        options = {"PYTHONPATH": path, "TRITON_CACHE_DIR": prebuild.TRITON_CACHE}
        return int(programs.output("compile_triton.py", cwd=folder, **options))

    assert compiled(trees[0]) > 0
    (trees[1] / "build").mkdir()
    (trees[0] / prebuild.TRITON_CACHE).rename(trees[1] / prebuild.TRITON_CACHE)
    assert compiled(trees[1]) == 0
