"""The layout for the package `kernels`: its rules, and that this package loads it (docs/hub.md)."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import programs
import pytest

import frs_kernels

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(frs_kernels.__file__).parent
sys.path.append(str(ROOT / "csrc"))
import hub_layout  # noqa: E402


@pytest.fixture
def variants(tmp_path) -> list[Path]:
    """The variants of the build in this tree: that for the CPU, and where it is built that for CUDA."""
    if not (PACKAGE / "_native_cpu.so").exists():
        pytest.skip("_native_cpu.so is not built (FRS_BUILD=none)")
    return hub_layout.lay_out(PACKAGE, tmp_path / "hub")


def metadata(variant: Path) -> dict:
    return json.loads((variant / "metadata.json").read_text())


def test_a_variant_has_the_code_that_the_rules_allow(variants):
    names = [re.sub("-(x86_64|aarch64)-linux$", "", variant.name) for variant in variants]
    assert names[0] == "torch-stable-abi210-cpu"
    assert all(re.fullmatch(r"torch-stable-abi210-cu\d{3}", name) for name in names[1:])
    for variant, backend in zip(variants, ("cpu", "cuda"), strict=False):
        libraries = {f"_native_{device}.so" for device in ("cpu", backend)}
        assert {path.name for path in variant.rglob("*.so")} == libraries
        for path in variant.rglob("*.py"):
            absolute = [
                name.partition(".")[0]
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level)
                for name in [getattr(node, "module", None) or node.names[0].name]
            ]
            assert set(absolute) <= {"torch", "triton", *sys.stdlib_module_names}, path


def test_metadata_describe_a_variant(variants):
    for variant, backend in zip(variants, ("cpu", "cuda"), strict=False):
        facts = metadata(variant)
        assert re.fullmatch(rf"_frs_kernels_{backend}_[0-9a-f]{{12}}", facts["id"])
        assert facts["backend"]["type"] == backend and facts["name"] == "frs-kernels"
        files = {p.relative_to(variant).as_posix() for p in variant.rglob("*") if p.is_file()}
        assert set(facts["digest"]["files"]) == files - {"metadata.json"}
    if len(variants) > 1:
        archs = json.loads((PACKAGE / "build_info.json").read_text())["cuda_archs"]
        assert metadata(variants[1])["backend"]["archs"] == archs


def test_the_namespace_names_the_code(variants, tmp_path):
    package = shutil.copytree(PACKAGE, tmp_path / "frs_kernels")
    info = json.loads((package / "build_info.json").read_text())
    (package / "build_info.json").write_text(json.dumps(info | {"time": "2000-01-01T00:00:00Z"}))
    before = metadata(variants[0])["id"]
    assert metadata(hub_layout.lay_out(package, tmp_path / "again")[0])["id"] == before
    with (package / "ops.py").open("a") as file:
        file.write("\n# other code\n")
    assert metadata(hub_layout.lay_out(package, tmp_path / "again")[0])["id"] != before


def test_a_package_without_libraries_is_named(tmp_path):
    with pytest.raises(SystemExit, match=f"{tmp_path} has no CPU kernels"):
        hub_layout.lay_out(tmp_path, tmp_path / "hub")


def test_kernels_loads_two_builds_beside_the_installed_package(variants, tmp_path):
    """The builds share their library, as they do in the hub's cache: equal files are stored once."""
    pytest.importorskip("kernels", reason="needs the package kernels (requirements-integrations.txt)")
    package = shutil.copytree(PACKAGE, tmp_path / "frs_kernels")
    with (package / "ops.py").open("a") as file:
        file.write("\n# other code\n")
    other = hub_layout.lay_out(package, tmp_path / "other")[0]
    (other / "_native_cpu.so").unlink()
    (other / "_native_cpu.so").symlink_to(variants[0] / "_native_cpu.so")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    out = programs.output("load_hub_builds.py", tmp_path / "hub", tmp_path / "other", **offline)
    ids = [metadata(variant)["id"] for variant in (variants[0], other)]
    assert out.split() == ["frs_kernels", *ids]
