"""The variants of the CUDA kernels: their changes fit the sources. Nothing is compiled twice."""

import shutil
from pathlib import Path

import pytest

from benchmarks import gpu_programs

ROOT = Path(__file__).parent.parent
VARIANTS = gpu_programs.SETS["variants"]


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """A copy of the sources, in which an "nvcc" writes the text of tiles.h into its output."""
    for name in ("csrc", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("results"))
    compiler = tmp_path / "nvcc"
    compiler.write_text(
        '#!/bin/sh\ncat csrc/include/frs/tiles.h >"$(eval echo \\${$#})"\necho >>"$0.calls"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setattr(gpu_programs, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_programs.toolchain, "find_nvcc", lambda: str(compiler))
    return tmp_path


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: Path(variant.name).name)
def test_the_changes_fit_the_sources(variant, tree):
    before = {file: (tree / file).read_text() for file, _, _ in variant.edits}
    variant.apply(tree)
    assert before and all((tree / file).read_text() != text for file, text in before.items())


def test_no_two_variants_are_the_same():
    assert len({variant.name for variant in VARIANTS}) == len({variant.edits for variant in VARIANTS})


def test_a_text_that_does_not_occur_once_is_refused(tree):
    program = gpu_programs.Program("p", (), (("csrc/include/frs/tiles.h", "uint32_t", ""),))
    with pytest.raises(ValueError, match=r"p: \d+ times in csrc/include/frs/tiles.h instead of once"):
        program.apply(tree)


def test_variants_are_compiled_from_changed_copies_and_only_once(tree):
    present = (tree / "csrc/include/frs/tiles.h").read_text()
    for capability, calls in (("9.0", 1), ("9.0", 1), ("8.0", 2)):
        gpu_programs.build("variants", capability)
        assert (tree / "nvcc.calls").read_text().count("\n") == calls * len(VARIANTS)
    texts = {Path(v.name).name: (tree / v.name).read_text() for v in VARIANTS}
    assert "kWarps = 4;" in texts["four-warps"] and "log2 = 4;" in texts["half-rows"]
    assert texts["no-prefetch"] == present == (tree / "csrc/include/frs/tiles.h").read_text()
