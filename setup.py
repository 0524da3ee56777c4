"""What is built of frs_kernels, and why. Everything else about the package is in pyproject.toml.

FRS_BUILD says which native libraries are built (without any, the backends eager and Triton remain):
    auto  (default) the CPU kernels, and the CUDA kernels where nvcc and a CUDA build of torch are present
          (decided on the toolkit, never on a GPU: a wheel may be built on a machine without one)
    cuda  both, or an error that says what is missing
    cpu   the CPU kernels only
    none  nothing: a pure Python package, no compiler and no torch needed
FRS_DEBUG=1 builds with bounds checks (FRS_CHECK in csrc/, the C++ library's assertions) and symbols.
CXX, CXXFLAGS, LDFLAGS, MAX_JOBS, CUDA_HOME, TORCH_CUDA_ARCH_LIST and nvcc's NVCC_APPEND_FLAGS mean what they
mean elsewhere.

A source's folder says where it goes; a new file needs no change here:
    csrc/bind/*.cpp                         _native_cpu.so and _native_cuda.so
    csrc/cpu/*.cpp    csrc/bind/cpu/*.cpp   _native_cpu.so
    csrc/cpu/isa/*.cpp                      _native_cpu.so, once per instruction set with -DFRS_ISA=<its name>
    csrc/cuda/*.cu    csrc/bind/cuda/*.cpp  _native_cuda.so, with the static CUDA runtime
    csrc/host.cpp                           _host.<abi>.so, with pybind11 and without torch
    csrc/host_math.cpp                      _host.<abi>.so, once per instruction set
The two _native libraries use LibTorch's stable ABI: one build serves torch 2.10 and later, and every Python.
"""

import json
import os
import platform
import shlex
import sys
import sysconfig
import time
from pathlib import Path

from setuptools import Extension, __version__, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))
import toolchain  # noqa: E402

MODE = os.environ.get("FRS_BUILD", "auto")
DEBUG = os.environ.get("FRS_DEBUG", "0")
TARGET_ABI = "0x020a000000000000"  # torch 2.10
CXX_FLAGS = "-O3 -fPIC -fvisibility=hidden -fno-math-errno -Wall -Wextra -Icsrc -Icsrc/include".split()
NVCC_FLAGS = "-O3 -Icsrc -Icsrc/include -Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra".split()
if DEBUG == "1":
    CXX_FLAGS += "-DFRS_DEBUG -D_GLIBCXX_ASSERTIONS -g -fno-omit-frame-pointer".split()
    NVCC_FLAGS += "-DFRS_DEBUG -D_GLIBCXX_ASSERTIONS -lineinfo -Xcompiler=-g,-fno-omit-frame-pointer".split()
LD_FLAGS = shlex.split(os.environ.get("LDFLAGS", ""))  # of what CXX links; nvcc links _native_cuda.so
ISAS = {"baseline": []}  # what any machine of this architecture runs; a better one is picked at run time
if platform.machine() == "x86_64":
    ISAS |= {"x86_64_v3": ["-march=x86-64-v3"], "x86_64_v4": ["-march=x86-64-v4"]}
LIBRARIES = [f"frs_kernels.{name}" for name in ("_native_cpu", "_native_cuda", "_host")]


class BuildNative(build_ext):
    """Decides what is built, and writes one ninja file for it: parallel, and compiling only what changed."""

    def get_ext_filename(self, name):  # only _host belongs to one version of Python
        return super().get_ext_filename(name) if name.endswith("_host") else name.replace(".", "/") + ".so"

    def run(self):
        os.chdir(ROOT)
        self.build_temp = f"build/{self.plat_name}-{sys.implementation.cache_tag}"  # for all ways to build
        if self.extensions:
            self.decide()
        leftovers = set(LIBRARIES) - {extension.name for extension in self.extensions or []}
        for folder in [self.build_lib, "."] if self.inplace else [self.build_lib]:
            for name in leftovers:
                Path(folder, self.get_ext_filename(name)).unlink(missing_ok=True)
        super().run()

    def decide(self):
        self.torch, self.cxx = toolchain.need("torch"), toolchain.find_cxx()
        missing = toolchain.missing_for_cuda(self.torch)
        if MODE == "cuda" and missing:
            toolchain.stop(f"FRS_BUILD=cuda, but {missing}.", "FRS_BUILD=cpu builds the CPU kernels alone.")
        self.archs = [] if MODE == "cpu" or missing else toolchain.cuda_archs(self.torch)
        what = f"CPU and CUDA kernels ({';'.join(self.archs)})" if self.archs else "CPU kernels only"
        why = f", {missing}" if MODE == "auto" and missing else ""
        print(f"frs-kernels: FRS_BUILD={MODE}, torch {self.torch.__version__}: {what}{why}", flush=True)
        skipped = [] if self.archs else [LIBRARIES[1]]
        if not Path(sysconfig.get_path("include"), "Python.h").exists():
            print("frs-kernels: no Python.h (Debian: python3-dev), so no _host: only tests and info use it")
            skipped.append(LIBRARIES[2])
        self.extensions = [e for e in self.extensions if e.name not in skipped]

    def build_extensions(self):
        temp, info = Path(self.build_temp), json.dumps(self.build_info(), indent=2)
        targets = {e.name: self.get_ext_fullpath(e.name) for e in self.extensions}
        for folder in [temp, Path(targets[LIBRARIES[0]]).parent]:
            folder.mkdir(parents=True, exist_ok=True)
        with toolchain.Ninja(temp, self.cxx) as ninja:
            (temp / "build_info.cpp").write_text(f'extern const char frs_build_info[] = R"-({info})-";\n')
            self.plan(ninja, targets)
        Path(targets[LIBRARIES[0]]).with_name("build_info.json").write_text(info + "\n")

    def plan(self, ninja, targets):
        """Which file is compiled how, and which library it goes into."""
        base = Path(self.torch.__file__).parent
        standard = "-std=c++20" if self.torch.__version__ >= (2, 13) else "-std=c++17"  # its headers need it
        stable = ["-isystem", f"{base}/include", f"-DTORCH_TARGET_VERSION={TARGET_ABI}", standard]
        plain = [*CXX_FLAGS, "-std=c++17", *shlex.split(os.environ.get("CXXFLAGS", ""))]

        shared = ninja.objects("cxx", "csrc/bind/*.cpp", plain + stable)
        cpu = shared + ninja.objects("cxx", "csrc/cpu/*.cpp", plain)
        cpu += ninja.objects("cxx", "csrc/bind/cpu/*.cpp", plain + stable)
        variants = {isa: [*flags, f"-DFRS_ISA={isa}"] for isa, flags in ISAS.items()}
        for isa, more in variants.items():
            cpu += ninja.objects("cxx", "csrc/cpu/isa/*.cpp", plain + more, f".{isa}")
        ninja.build(
            "link", targets[LIBRARIES[0]], cpu, [f"-L{base}/lib", "-ltorch_cpu", "-pthread", *LD_FLAGS]
        )

        if LIBRARIES[1] in targets:
            gencode = [flag for arch in self.archs for flag in toolchain.gencode(arch)]
            cuda = shared + ninja.objects("nvcc", "csrc/cuda/*.cu", [*NVCC_FLAGS, "-std=c++17", *gencode])
            cuda += ninja.objects("nvcc", "csrc/bind/cuda/*.cpp", [*NVCC_FLAGS, *stable, "-DUSE_CUDA"])
            libraries = [f"-L{base}/lib", "-ltorch_cuda", "-ltorch_cpu"]
            ninja.build("culink", targets[LIBRARIES[1]], cuda, [*gencode, *libraries])

        if LIBRARIES[2] in targets:
            pybind = ["-isystem", toolchain.need("pybind11").get_include()]
            python = ["-isystem", sysconfig.get_path("include")]
            host = ninja.objects("cxx", "csrc/host.cpp", plain + pybind + python)
            for isa, more in variants.items():
                host += ninja.objects("cxx", "csrc/host_math.cpp", plain + more, f".{isa}")
            host += ninja.objects("cxx", f"{self.build_temp}/build_info.cpp", plain)
            ninja.build("link", targets[LIBRARIES[2]], host, LD_FLAGS)

    def copy_extensions_to_source(self):  # setuptools' last step of an in-place build
        super().copy_extensions_to_source()
        if self.extensions:
            self.copy_file(f"{self.build_lib}/frs_kernels/build_info.json", "frs_kernels/build_info.json")
        else:
            Path("frs_kernels/build_info.json").unlink(missing_ok=True)

    def build_info(self):
        return {
            "mode": MODE,
            "torch": str(self.torch.__version__),
            "target_abi": TARGET_ABI,
            "compiler": toolchain.output([*shlex.split(self.cxx), "--version"]).split("\n")[0],
            "cxx_flags": " ".join([*CXX_FLAGS, *shlex.split(os.environ.get("CXXFLAGS", ""))]),
            "ld_flags": " ".join(LD_FLAGS),
            "debug": "bounds checks (FRS_DEBUG=1)" if DEBUG == "1" else "",
            "instruction_sets": list(ISAS),
            "nvcc": self.archs and toolchain.output([toolchain.find_nvcc(), "--version"]).split("\n")[-1],
            "cuda_archs": self.archs,
            "commit": toolchain.output(["git", "describe", "--always", "--dirty", "--abbrev=12"]) or None,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


if MODE not in ("auto", "cuda", "cpu", "none"):
    toolchain.stop(f"FRS_BUILD={MODE!r} is unknown.", "It is one of auto, cuda, cpu, none.")
if DEBUG not in ("", "0", "1"):
    toolchain.stop(f"FRS_DEBUG={DEBUG!r} is unknown.", "It is 1 for a build with bounds checks, or 0.")
if int(__version__.split(".")[0]) < 77:
    toolchain.stop(f"setuptools {__version__} is too old.", 'Take a newer one: pip install "setuptools>=77"')
extensions = [] if MODE == "none" else [Extension(name, sources=[]) for name in LIBRARIES]
setup(ext_modules=extensions, cmdclass={"build_ext": BuildNative})
