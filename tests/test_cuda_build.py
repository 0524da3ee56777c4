"""What the compiler made of the CUDA kernels, read from the library without a GPU.

The library in the package is read if it has code for sm_90 and is no older than its sources. Otherwise a new
one is built, with warnings as errors.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import programs
import pytest
import torch

import frs_kernels

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(frs_kernels.__file__).parent
CODECS = {name: f"CodecILNS_5DTypeE{index}" for index, name in enumerate(("f32", "bf16", "f16", "f64"))}


def find(tool: str) -> str | None:
    """A tool of the CUDA toolkit. The Triton package has the disassemblers that slim toolkits lack."""
    path = shutil.which(tool) or shutil.which(f"/usr/local/cuda/bin/{tool}")
    if path is None and (spec := sys.modules.get("triton") or _triton()):
        path = shutil.which(str(Path(spec.__file__).parent / "backends" / "nvidia" / "bin" / tool))
    return path


def _triton():
    try:
        import triton
    except ImportError:
        return None
    return triton


def output(*command, **environment) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, text=True, capture_output=True, timeout=1500
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    built, info = PACKAGE / "_native_cuda.so", PACKAGE / "build_info.json"
    sources = [*(ROOT / "csrc").rglob("*.cu*"), *(ROOT / "csrc").rglob("*.h")]
    sources += [*(ROOT / "csrc/bind").glob("*.cpp"), *(ROOT / "csrc/bind/cuda").glob("*.cpp")]
    if built.exists() and info.exists() and "9.0" in json.loads(info.read_text())["cuda_archs"]:
        if all(built.stat().st_mtime >= source.stat().st_mtime for source in sources):
            return built
    if find("nvcc") is None:
        pytest.skip("needs nvcc, or a library built for sm_90")
    if torch.version.cuda is None:
        pytest.skip(f"torch {torch.__version__} is a build without CUDA")
    folder = tmp_path_factory.mktemp("cuda")
    output(
        sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder),
        FRS_BUILD="cuda", TORCH_CUDA_ARCH_LIST="9.0",
        NVCC_APPEND_FLAGS="-Werror=all-warnings -Xcompiler=-Werror",
    )  # fmt: skip
    return folder / "frs_kernels" / "_native_cuda.so"


@pytest.fixture(scope="module")
def code(library) -> dict[str, list[tuple[int, str]]]:
    """Address and text of every instruction of every sm_90 kernel, by mangled name."""
    if (cuobjdump := find("cuobjdump")) is None:
        pytest.skip("needs cuobjdump (of the CUDA toolkit, or of the Triton package)")
    tools = {"PATH": f"{Path(cuobjdump).parent}{os.pathsep}{os.environ['PATH']}"}  # cuobjdump calls nvdisasm
    lines, name = {}, None
    for line in output(cuobjdump, "-sass", "-arch", "sm_90", str(library), **tools).splitlines():
        if match := re.search(r"Function : (\S+)", line):
            name = match[1]
            lines[name] = []
        elif name and (match := re.match(r"\s+/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+ )?\s*([A-Z].*?);", line)):
            lines[name].append((int(match[1], 16), match[2]))
    return lines


@pytest.fixture(scope="module")
def kernels(code) -> dict[str, list[str]]:
    """The instructions of every kernel without operands, by mangled name."""
    return {name: [text.split()[0] for _, text in lines] for name, lines in code.items()}


def copying_loops(lines: list[tuple[int, str]]) -> list[list[str]]:
    """The innermost loops with asynchronous copies, from the target of a backward branch to the branch."""
    copies = [at for at, text in lines if text.startswith("LDGSTS")]
    jumps = [(int(m[1], 16), at) for at, text in lines if (m := re.match(r"BRA.*?0x([0-9a-f]+)", text))]
    loops = [(start, end) for start, end in jumps if any(start <= at <= end for at in copies)]
    inner = [
        (start, end) for start, end in loops
        if not any(start <= a and b <= end for a, b in loops if (a, b) != (start, end))
    ]  # fmt: skip
    return [[text.split()[0] for at, text in lines if start <= at <= end] for start, end in inner]


def test_all_kernels_are_there_for_sm_90(kernels):
    def count(name):
        return sum(name in kernel for kernel in kernels)

    assert {name: count(name) for name in ("mask_kernel", "mask_sum_kernel", "loss_kernel")} == {
        "mask_kernel": 4, "mask_sum_kernel": 2, "loss_kernel": 7,
    }  # fmt: skip
    assert (count("single_pass_kernel"), count("scale_kernel")) == (7, 2)
    assert all(len(instructions) > 20 for instructions in kernels.values())


def test_no_kernel_uses_local_memory(kernels):
    """No kernel spills registers or indexes an array at run time."""
    spilling = {
        name: sorted({i for i in instructions if i.startswith(("LDL", "STL"))})
        for name, instructions in kernels.items()
    }
    assert not {name: spills for name, spills in spilling.items() if spills}


@pytest.mark.parametrize("codec", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("kernel", ["mask", "loss", "single_pass"])
def test_tensors_are_read_and_written_16_bytes_at_a_time(kernels, kernel, codec):
    (instructions,) = (
        body for name, body in kernels.items() if f"{kernel}_kernel" in name and CODECS[codec] in name
    )
    assert [i for i in instructions if i.startswith("LDGSTS") and i.endswith(".128")], "no 16-byte copies"
    if kernel == "loss":
        assert [i for i in instructions if i.startswith("STG") and i.endswith(".128")], "no 16-byte stores"


def test_the_largest_logit_keeps_nan(kernels):
    """FMNMX and, for two elements of 16 bits, HMNMX2 and VHMNMX drop NaN unless they end in .NAN."""
    for name, instructions in kernels.items():
        if "mask_kernel" in name and CODECS["f64"] not in name:  # float64 is compared by hand
            maxima = {i for i in instructions if i.startswith(("FMNMX", "HMNMX2", "VHMNMX"))}
            assert maxima and all(i.endswith(".NAN") for i in maxima), name
            packed = any(i.startswith("HMNMX2") for i in maxima)
            assert packed == (CODECS["f32"] not in name), name


def test_head_term_needs_three_special_function_calls_an_element(kernels):
    """Two exponentials and one shared reciprocal, no division, and one logarithm for many elements."""
    for codec, width in (("f32", 4), ("bf16", 8), ("f16", 8)):
        (instructions,) = (
            body for name, body in kernels.items() if "loss_kernel" in name and CODECS[codec] in name
        )
        bodies = 4  # of loops: location- and channel-major, with 16-byte accesses and by single elements
        assert instructions.count("MUFU.EX2") == 2 * width * bodies
        assert instructions.count("MUFU.LG2") == 2 * (width + 1)  # NCHW: one per column, else one per row


# Instructions per iteration (8 elements per lane, 4 of float32) in NCHW and in channels_last.
COUNTS = {
    ("loss", "bf16", "head"): (212, 235), ("loss", "bf16", "imitation"): (101, 105),
    ("loss", "f32", "head"): (113, 138), ("loss", "f32", "imitation"): (61, 62),
    ("mask", "bf16", ""): (26, 81), ("mask", "f32", ""): (26, 70),
}  # fmt: skip


@pytest.mark.parametrize("kernel, codec, term", COUNTS)
def test_an_iteration_takes_no_more_instructions_than_it_did(code, kernel, codec, term):
    """The counts in docs/tuning-cuda.md, with a margin for another compiler."""
    (lines,) = (lines for name, lines in code.items() if f"{kernel}_kernel" in name and CODECS[codec] in name)
    counts = sorted(len(loop) for loop in copying_loops(lines) if ("MUFU.EX2" in loop) == (term == "head"))
    assert all(n <= 1.03 * most for n, most in zip(counts, COUNTS[kernel, codec, term], strict=True))


def test_library_needs_only_the_stable_interface(library):
    if (nm := shutil.which("nm")) is None:
        pytest.skip("needs nm (binutils)")
    undefined = output(nm, "-DC", "--undefined-only", str(library))
    assert "at::" not in undefined and "c10::" not in undefined and "torch::" not in undefined
    assert not re.search(r"\bcuda[A-Z]\w+", undefined), "the CUDA runtime is linked statically"
    needed = output("readelf", "-d", str(library))
    assert "libcudart" not in needed and "libpython" not in needed


def test_library_loads_without_a_gpu(library):
    """In a separate process, because this one may have loaded a library already."""
    if torch.version.cuda is None:
        pytest.skip(f"torch {torch.__version__} is a build without CUDA")
    assert programs.output("load_cuda_library.py", library) == "True\n"


@pytest.mark.parametrize("program", ["gpu_check", "gpu_patterns"])
def test_the_programs_of_the_gpu_suite_compile(program, tmp_path):
    """No other test compiles them, and they need a GPU to run."""
    if (nvcc := find("nvcc")) is None:
        pytest.skip("needs nvcc")
    output(
        nvcc, "-std=c++17", "-arch=sm_90", "-Werror=all-warnings", "-Icsrc", "-Icsrc/include",
        "-c", f"benchmarks/{program}.cu", "-o", str(tmp_path / "program.o"),
    )  # fmt: skip
