"""The build and its results: decisions and messages of setup.py, archives, libraries, frs_kernels.info."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import programs
import pytest
from builds import TORCH_FOR_CPU, TORCH_FOR_CUDA, failed_build, sources, stub_compiler

import frs_kernels

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(frs_kernels.__file__).parent


def run(*command, cwd=ROOT, **environment):
    """The CompletedProcess of a command, with these changes of the environment."""
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, text=True, capture_output=True, timeout=300
    )


def test_without_torch_the_message_gives_the_command():
    message = failed_build("torch")
    assert "no torch" in message
    for installer in ("pip", "uv pip"):
        assert f'    {installer} install "torch>=2.10" "setuptools>=77" ninja "pybind11>=3"\n' in message
        assert f"    {installer} install --no-build-isolation .\n" in message


def test_without_a_compiler_the_message_gives_both_ways_out(tmp_path):
    message = failed_build(PATH=str(tmp_path), CXX="no-such-compiler", **TORCH_FOR_CPU)
    assert "no C++ compiler" in message and "no-such-compiler" in message
    assert "apt-get install g++" in message and "FRS_BUILD=none" in message


def test_cuda_asked_for_and_impossible_is_an_error():
    message = failed_build("nvcc", FRS_BUILD="cuda", **TORCH_FOR_CUDA)
    assert "FRS_BUILD=cuda, but nvcc was not found" in message and "without CUDA" not in message
    message = failed_build("nvcc", FRS_BUILD="cuda", **TORCH_FOR_CPU)
    assert "nvcc was not found" in message and "torch 2.11.0 is a build without CUDA" in message


def test_unknown_mode_and_old_setuptools_are_errors():
    assert "one of auto, cuda, cpu, none" in failed_build(FRS_BUILD="gpu")
    assert "FRS_DEBUG='yes' is unknown" in failed_build(FRS_DEBUG="yes")
    assert "65.5.0 is too old" in failed_build("new-setuptools")


def compiler_calls(tree):
    """The arguments of each call of a stub compiler that has built this tree."""
    return (tree / "commands.txt").read_text().splitlines()


def test_flags_of_the_environment_and_of_bounds_checks(tmp_path):
    clone = sources(tmp_path)
    flags = {"CXXFLAGS": "-DGIVEN", "LDFLAGS": "-Wl,--given", "FRS_DEBUG": "1"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = run(*command, cwd=clone, CXX=stub_compiler("x86_64"), FRS_BUILD="cpu", **flags)
    assert done.returncode == 0, done.stderr
    compiled = [call for call in compiler_calls(clone) if " -c " in call]
    linked = [call for call in compiler_calls(clone) if "-shared" in call]
    assert compiled and all(" -DGIVEN " in line and " -DFRS_DEBUG " in line for line in compiled)
    assert linked and all(" -Wl,--given " in line for line in linked)
    info = json.loads((clone / "frs_kernels" / "build_info.json").read_text())
    assert info["ld_flags"] == "-Wl,--given" and "FRS_DEBUG" in info["debug"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A folder with the archives of a build of nothing: (the wheel, the source archive)."""
    folder = tmp_path_factory.mktemp("archives")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, sources(folder)]
    done = run(*map(str, command), FRS_BUILD="none")
    assert done.returncode == 0, done.stderr
    version = frs_kernels.__version__
    return folder / f"frs_kernels-{version}-py3-none-any.whl", folder / f"frs_kernels-{version}.tar.gz"


def test_archives_of_a_build_of_nothing(archives):
    version = frs_kernels.__version__
    with zipfile.ZipFile(archives[0]) as wheel:
        names = wheel.namelist()
        scripts = wheel.read(f"frs_kernels-{version}.dist-info/entry_points.txt").decode()
        metadata = wheel.read(f"frs_kernels-{version}.dist-info/METADATA").decode()
    kinds = (".py", ".pt", ".typed")
    modules = [p.relative_to(ROOT).as_posix() for p in ROOT.glob("frs_*/**/*") if p.suffix in kinds]
    assert set(modules) <= set(names)
    assert not [name for name in names if name.endswith(".so") or name.split("/")[0] in ("tests", "csrc")]
    assert "frs-train = frs_train.__main__:main" in scripts
    assert re.findall(r"^Requires-Dist: (\S+)$", metadata, re.M) == ["torch>=2.10"]
    with tarfile.open(archives[1]) as sdist:
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    kernels = [p.relative_to(ROOT).as_posix() for p in (ROOT / "csrc").rglob("*.[ch]*") if p.suffix != ".pyc"]
    assert {"setup.py", "csrc/toolchain.py", "csrc/machine.py", "LICENSE", *kernels, *modules} <= packed


def test_a_wheel_needs_no_compiler(archives, tmp_path):
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this Python has no pip")
    nothing = tmp_path / "nothing"
    alone = {"PATH": str(nothing), "CXX": "no-such-compiler"}
    command = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(tmp_path)]
    done = run(sys.executable, *command, str(archives[0]), **alone)
    assert done.returncode == 0, done.stderr
    out = programs.output("package_report.py", cwd=tmp_path, **alone, PYTHONPATH=str(tmp_path))
    assert "eager            runs" in out and str(tmp_path / "frs_kernels") in out


def wheel_of(tree, architecture):
    """The wheel of a tree with the CPU kernels, which a stub compiles for an architecture."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(tree)]
    done = run(*command, FRS_BUILD="cpu", CXX=stub_compiler(architecture))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    name = f"frs_kernels-{frs_kernels.__version__}-py3-none-linux_{architecture}.whl"
    return zipfile.ZipFile(tree / "dist" / name)


@pytest.mark.parametrize(("architecture", "instruction_sets"), [("x86_64", 3), ("aarch64", 1)])
def test_a_wheel_is_for_every_python(archives, tmp_path, architecture, instruction_sets):
    """The source archive makes the same one, by the same commands."""
    tree = sources(tmp_path)
    shutil.unpack_archive(archives[1], tmp_path)
    unpacked = next(tmp_path.glob("frs_kernels-*"))
    with wheel_of(tree, architecture) as wheel, wheel_of(unpacked, architecture) as same:
        assert sorted(same.namelist()) == sorted(wheel.namelist())
        libraries = [name for name in wheel.namelist() if name.endswith(".so")]
        info = json.loads(wheel.read("frs_kernels/build_info.json"))
    assert libraries == ["frs_kernels/_native_cpu.so"]
    assert len(info["instruction_sets"]) == instruction_sets
    assert sorted(compiler_calls(unpacked)) == sorted(compiler_calls(tree))


def library(name):
    path = PACKAGE / name
    if not path.exists():
        pytest.skip(f"{name} is not built (FRS_BUILD=none)")
    return path


def test_build_info_describes_the_build():
    library("_native_cpu.so")
    info = json.loads((PACKAGE / "build_info.json").read_text())
    assert info["target_abi"] == "0x020a000000000000" and info["mode"] in ("auto", "cuda", "cpu")
    assert info["compiler"] and "baseline" in info["instruction_sets"]
    assert bool(info["debug"]) == ("-DFRS_DEBUG" in info["cxx_flags"])
    assert bool(info["cuda_archs"]) == (PACKAGE / "_native_cuda.so").exists()


def symbols(*arguments):
    if not shutil.which("nm"):
        pytest.skip("nm (binutils) is not installed")
    return subprocess.run(
        ["nm", "-C", *map(str, arguments)], text=True, capture_output=True, check=True
    ).stdout


def test_cpu_library_needs_the_stable_abi_alone():
    undefined = symbols("-D", "--undefined-only", library("_native_cpu.so"))
    assert "aoti_torch" in undefined or "torch_" in undefined
    assert not re.findall(r"\b(?:at|c10)::.*", undefined)


@pytest.mark.parametrize("name", ["_native_cpu.so", "_native_cuda.so"])
def test_libraries_load_with_the_libstdcxx_of_gcc_8(name):
    """manylinux_2_28 has nothing newer. The version of glibc is that of the machine, except in a wheel."""
    newest = {"GLIBCXX_3.4": 25, "CXXABI_1.3": 11}
    needed = re.findall(r"@(GLIBCXX_3\.4|CXXABI_1\.3)\.(\d+)", symbols("-D", library(name)))
    assert needed
    assert not [f"{base}.{minor}" for base, minor in needed if int(minor) > newest[base]]


@pytest.mark.parametrize("name", ["_native_cpu.so", "_native_cuda.so"])
def test_libraries_export_only_names_of_their_own(name):
    exported = symbols("-D", "--defined-only", library(name)).split()[2::3]
    assert all(symbol.startswith("frs_") for symbol in exported)


def test_no_instruction_set_leaks():
    """The linker keeps one of several inline functions with the same name, of any instruction set."""
    objects = sorted((ROOT / "build").glob(f"*{sys.implementation.cache_tag}/csrc/cpu/isa/*.x86_64_v*.o"))
    if not objects:
        pytest.skip("no objects of an x86-64 build under build/")
    lines = [line for o in objects for line in symbols(o).splitlines()]
    assert any(re.search(r" T .*::x86_64_v", line) for line in lines), "no instruction set has a function"
    shared = [line for line in lines if re.search(r" [uVW] ", line)]
    assert not [line for line in shared if "::x86_64_v" not in line and "DW.ref." not in line]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"not a library", "_native_cpu.so cannot be loaded by torch"), (None, "_native_cpu.so is not built")],
)
def test_import_and_info_survive_a_library_that_does_not_load(tmp_path, content, reason):
    made = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "frs_kernels", ignore=made)
    if content is not None:
        (tmp_path / "frs_kernels" / "_native_cpu.so").write_bytes(content)
    out = programs.output("package_report.py", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert out.count(reason) == 2, out
    assert "eager            runs" in out and str(tmp_path) in out
