"""What is built for the GPU suite on another machine: packed, carried, and found again."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks import prebuild
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
    found = [file for file in folder.rglob("*") if file.is_file() and file.name != "prebuilt.tar.xz"]
    return {str(file.relative_to(folder)): file.read_text() for file in found}


def test_unpacks_what_was_packed(tree, monkeypatch, capsys):
    prebuild.pack("9.0")
    other = elsewhere(tree, monkeypatch)
    prebuild.unpack("9.0")
    assert files(other) == files(tree) and len(files(other)) == 6
    assert "unpacked" in capsys.readouterr().out


def test_what_is_of_another_gpu_or_other_sources_is_left_alone(tree, monkeypatch, capsys):
    prebuild.pack("9.0")
    other = elsewhere(tree, monkeypatch)
    prebuild.unpack("8.0")
    monkeypatch.setattr(prebuild, "digest", lambda device: "changed")
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
    prebuild.unpack("9.0")


@pytest.mark.parametrize("text", ["90", "sm_90", "9.x", ""])
def test_a_capability_that_is_none_is_refused(text):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.prebuild", "make", text], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "is not a compute capability" in done.stderr


@pytest.mark.slow
def test_the_triton_cache_is_hit_in_another_folder(tmp_path):
    """A share of the GPU tests and benchmarks, compiled in one tree and asked for in another."""
    pytest.importorskip("triton")
    if triton.unavailable() is None:
        pytest.skip("there is a GPU, or the interpreter runs: nothing has to be pretended")
    trees = [tmp_path / "here", tmp_path / "there"]
    for folder in trees:
        for name in ("benchmarks", "frs_kernels", "tests", "pyproject.toml"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "benchmarks.triton_stub", "9.0", "0", "300"]
    environment = {**os.environ, "TRITON_CACHE_DIR": prebuild.TRITON_CACHE}

    def compiled(folder: Path) -> int:
        done = subprocess.run(
            command, cwd=folder, env=environment, check=True, capture_output=True, text=True
        )
        return int(re.search(r"^process 1 of 300: (\d+) Triton kernels compiled$", done.stdout, re.M)[1])

    assert compiled(trees[0]) > 0
    (trees[1] / "build").mkdir()
    (trees[0] / prebuild.TRITON_CACHE).rename(trees[1] / prebuild.TRITON_CACHE)
    assert compiled(trees[1]) == 0
