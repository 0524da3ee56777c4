"""docs/install.md: every symptom of its table is what a build or an import really says in that situation."""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import programs
import pytest
from builds import (
    ROOT,
    TORCH_FOR_CPU,
    TORCH_FOR_CUDA,
    TURING_TO_HOPPER,
    failed_build,
    fake_nvcc,
    sources,
    stub_compiler,
    toolchain,
)  # fmt: skip

import frs_kernels
from frs_kernels.backends import native

PAGE = (ROOT / "docs/install.md").read_text()
ROWS = [
    [cell.strip() for cell in line[2:-2].split(" | ")]
    for line in PAGE.partition("## Troubleshooting")[2].splitlines()
    if line.startswith("| `")
]
PACKAGE = Path(frs_kernels.__file__).parent


def decided(tmp_path, *nvcc, **environment):
    """What a build prints that stops when all is decided, with a faked toolkit."""
    faked = {
        "CUDA_HOME": fake_nvcc(tmp_path, *nvcc),
        "TORCH_CUDA_ARCH_LIST": "",
        "CXX": stub_compiler("x86_64"),
    }
    return failed_build("compiling", "--build-lib", tmp_path, **{**TORCH_FOR_CUDA, **faked, **environment})


def without_torch(tmp_path):
    return failed_build("torch")


def without_setuptools(tmp_path):
    """What pip and uv run first. -S leaves out the folder of installed packages."""
    command = [sys.executable, "-I", "-S", "-c", "import setuptools.build_meta"]
    return subprocess.run(command, text=True, capture_output=True).stderr


def with_old_setuptools(tmp_path):
    return failed_build("new-setuptools")


def without_compiler(tmp_path):
    return failed_build(PATH=str(tmp_path), CXX="no-such-compiler", **TORCH_FOR_CPU)


def cuda_without_nvcc(tmp_path):
    return failed_build("nvcc", FRS_BUILD="cuda", **TORCH_FOR_CUDA)


def auto_without_nvcc(tmp_path):
    out = tmp_path / "lib"
    faked = {"FRS_BUILD": "auto", "CXX": stub_compiler("x86_64"), **TORCH_FOR_CUDA}
    return failed_build("nvcc+compiling", "--build-lib", out, **faked)


def torch_without_cuda(tmp_path):
    return decided(tmp_path, FRS_BUILD="cuda", TORCH_STUB_CUDA="")


def old_nvcc(tmp_path):
    return decided(tmp_path, "11.8", TURING_TO_HOPPER, FRS_BUILD="cuda")


def other_cuda(tmp_path):
    out = decided(tmp_path, "13.0", TORCH_STUB_CUDA="12.8")
    assert "CPU and CUDA kernels (8.0;8.6;8.9;9.0;10.0;12.0+PTX)" in out, "it is no error, and needs no GPU"
    return out


def old_driver(tmp_path):
    """The library has the messages of the CUDA runtime inside."""
    library = PACKAGE / "_native_cuda.so"
    if not library.exists():
        pytest.skip("the CUDA kernels are not built")
    return library.read_bytes().decode("latin-1")


def misspelled(tmp_path):
    return decided(tmp_path, TORCH_CUDA_ARCH_LIST="8.0 sm_90")


def too_old_an_architecture(tmp_path):
    out = decided(tmp_path, TORCH_CUDA_ARCH_LIST="7.5 8.0 9.0+PTX")
    assert "CPU and CUDA kernels (8.0;9.0+PTX)" in out
    return out


def too_new_an_architecture(tmp_path):
    return decided(tmp_path, "12.6", TURING_TO_HOPPER, TORCH_CUDA_ARCH_LIST="9.0,Blackwell")


def nothing_left(tmp_path):
    return decided(tmp_path, TORCH_CUDA_ARCH_LIST="Turing")


def an_old_gpu(tmp_path):
    return decided(tmp_path, FRS_BUILD="cuda", TORCH_STUB_GPU="7.5")


def wrong_jobs(tmp_path):
    return str(stopped(tmp_path, "true", MAX_JOBS="many"))


def failing_compiler(tmp_path):
    return str(stopped(tmp_path, "false"))


def stopped(tmp_path, cxx, **environment):
    """Why ninja could not compile a file with this program as the compiler."""
    (tmp_path / "a.cpp").touch()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as stop, toolchain.Ninja(tmp_path, cxx) as ninja:
            ninja.build("cxx", tmp_path / "a.o", [tmp_path / "a.cpp"], [])
    return stop.value


def new_gcc(tmp_path):
    """What the toolkit's header says under a compiler that is too new."""
    if (nvcc := toolchain.find_nvcc()) is None:
        pytest.skip("needs the CUDA toolkit")
    (tmp_path / "a.cu").touch()
    listed = subprocess.run([nvcc, "-M", tmp_path / "a.cu"], text=True, capture_output=True)
    if (header := re.search(r"\S+/crt/host_config\.h", listed.stdout)) is None:
        pytest.skip(f"nvcc does not work: {listed.stderr}")
    return Path(header[0]).read_text()


def cuda_not_built(tmp_path):
    return missing_library(tmp_path, "cuda")


def another_gpu(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "build_info", lambda: {"cuda_archs": ["9.0"]})
        return native.no_code_for((12, 0))


def damaged_library(tmp_path):
    (tmp_path / "_native_cpu.so").write_bytes(b"not a library")
    return missing_library(tmp_path, "cpu")


def missing_library(folder, device_type):
    """Why a library in this folder is not ready."""
    from frs_kernels import library

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "__file__", str(folder / "library.py"))
        return inspect.unwrap(library.load_native)(device_type)


SITUATIONS = [  # in the order of the table
    without_torch, without_setuptools, with_old_setuptools, without_compiler, cuda_without_nvcc,
    auto_without_nvcc, torch_without_cuda, old_nvcc, other_cuda, old_driver, misspelled,
    too_old_an_architecture, too_new_an_architecture, nothing_left, an_old_gpu, wrong_jobs, failing_compiler,
    new_gcc, cuda_not_built, another_gpu, damaged_library,
]  # fmt: skip


def test_every_row_has_a_situation():
    assert len(ROWS) == len(SITUATIONS) and {len(row) for row in ROWS} == {3}
    assert all(re.fullmatch("`[^`]+`", symptom) for symptom, _, _ in ROWS)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_the_symptom_is_what_is_said(situation, tmp_path):
    symptom = ROWS[SITUATIONS.index(situation)][0].strip("`")
    pattern = ".*".join(re.escape(piece) for piece in symptom.split("..."))
    said = situation(tmp_path)
    assert re.search(pattern, said), f"{symptom!r} is not in {said[-2000:]!r}"


def test_the_commands_of_the_page_are_those_of_the_message_and_of_the_readme():
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    with_pip, with_uv = (block.splitlines() for block in blocks)
    message = [line.strip() for line in failed_build("torch").splitlines()]
    assert with_pip[0] in message and with_pip[1] in message and with_uv[1] in message
    assert "\n".join(with_pip) in (ROOT / "README.md").read_text()


def test_uv_builds_with_the_environment_that_is_there(tmp_path):
    """[tool.uv] turns the isolation off: in an empty environment, uv misses setuptools and fetches none."""
    if (uv := shutil.which("uv")) is None:
        pytest.skip("needs uv")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    command = [uv, "pip", "install", "--offline", "--no-deps", "--python", python, "."]
    done = subprocess.run(
        command,
        cwd=sources(tmp_path),
        env=programs.environment(FRS_BUILD="none", PYTHONPATH=""),
        text=True,
        capture_output=True,
    )
    assert "No module named 'setuptools'" in done.stderr, done.stderr
