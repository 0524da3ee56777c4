"""What is built of frs_kernels, and why. Everything else about the package is in pyproject.toml.

FRS_BUILD says which native libraries are built (without any, the backends eager and Triton remain):
    auto  (default) the CPU kernels, and the CUDA kernels where nvcc and a CUDA build of torch are present
          (decided on the toolkit, never on a GPU: a wheel may be built on a machine without one)
    cuda  both, or an error that says what is missing
    cpu   the CPU kernels only
    none  nothing: a pure Python package, no compiler and no torch needed
FRS_DEBUG=1 builds with bounds checks (FRS_CHECK in csrc/, the C++ library's assertions) and symbols.
CXX, CXXFLAGS, LDFLAGS, MAX_JOBS, CUDA_HOME, TORCH_CUDA_ARCH_LIST and nvcc's NVCC_APPEND_FLAGS mean what they
mean elsewhere. A cross-compiler as CXX builds for its own target.

A source's folder says where it goes; a new file needs no change here:
    csrc/bind/*.cpp                         _native_cpu.so and _native_cuda.so
    csrc/cpu/*.cpp    csrc/bind/cpu/*.cpp   _native_cpu.so
    csrc/cpu/isa/*.cpp                      _native_cpu.so, once per instruction set with -DFRS_ISA=<its name>
    csrc/cuda/*.cu    csrc/bind/cuda/*.cpp  _native_cuda.so, with the static CUDA runtime
    csrc/host.cpp    csrc/host_tasks.cpp    _host.<abi>.so, with pybind11 and without torch
    csrc/host_math.cpp                      _host.<abi>.so, once per instruction set
    csrc/cpu/{loss_plan,settings}.cpp       _host.<abi>.so too
The two _native libraries use LibTorch's stable ABI and nothing of Python's: one build serves torch 2.10 and
later, and every Python. The wheel is named so. The module _host serves the tests and is no part of a wheel.
"""

import json
import os
import shlex
import sys
import sysconfig
import time
from pathlib import Path

from setuptools import Extension, __version__, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))
import toolchain  # noqa: E402

MODE = os.environ.get("FRS_BUILD", "auto")
DEBUG = os.environ.get("FRS_DEBUG", "0")
TARGET_ABI = "0x020a000000000000"  # torch 2.10
CXX_FLAGS = "-O3 -fPIC -fvisibility=hidden -fno-math-errno -Wall -Wextra -Icsrc -Icsrc/include".split()
NVCC_FLAGS = "-O3 -Icsrc -Icsrc/include -Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra".split()
LD_FLAGS = shlex.split(os.environ.get("LDFLAGS", ""))
EXPORTS = ["-Xlinker", "--version-script=csrc/exports.map"]
if DEBUG == "1":
    CXX_FLAGS += "-DFRS_DEBUG -D_GLIBCXX_ASSERTIONS -g -fno-omit-frame-pointer".split()
    NVCC_FLAGS += "-DFRS_DEBUG -D_GLIBCXX_ASSERTIONS -lineinfo -Xcompiler=-g,-fno-omit-frame-pointer".split()
ISAS = {  # by architecture; the first is what every machine of it runs, and the best is picked at run time
    "x86_64": {"baseline": [], "x86_64_v3": ["-march=x86-64-v3"], "x86_64_v4": ["-march=x86-64-v4"]},
}
LIBRARIES = [f"frs_kernels.{name}" for name in ("_native_cpu", "_native_cuda", "_host")]


class BuildNative(build_ext):
    """Decides what is built, and writes one ninja file for it: parallel, and compiling only what changed."""

    def get_ext_filename(self, name):  # only _host belongs to one version of Python
        return super().get_ext_filename(name) if name.endswith("_host") else name.replace(".", "/") + ".so"

    def run(self):
        os.chdir(ROOT)
        if not self.inplace:
            self.extensions = [e for e in self.extensions or [] if e.name != LIBRARIES[2]]
        if self.extensions:
            self.decide()
        leftovers = set(LIBRARIES) - {extension.name for extension in self.extensions or []}
        for folder in [self.build_lib, "."] if self.inplace else [self.build_lib]:
            for name in leftovers:
                Path(folder, self.get_ext_filename(name)).unlink(missing_ok=True)
        super().run()

    def decide(self):
        self.torch, self.cxx = toolchain.need("torch"), toolchain.find_cxx()
        machine = toolchain.target_machine(self.cxx)
        self.isas = ISAS.get(machine, {"baseline": []})
        self.build_temp = f"build/linux-{machine}-{sys.implementation.cache_tag}"  # for all ways to build
        missing = toolchain.missing_for_cuda(self.torch)
        if MODE == "cuda" and missing:
            toolchain.stop(f"FRS_BUILD=cuda, but {missing}.", "FRS_BUILD=cpu builds the CPU kernels alone.")
        self.archs = [] if MODE == "cpu" or missing else toolchain.cuda_archs(self.torch)
        what = f"CPU and CUDA kernels ({';'.join(self.archs)})" if self.archs else "CPU kernels only"
        why = f", {missing}" if MODE == "auto" and missing else ""
        print(f"frs-kernels: FRS_BUILD={MODE}, torch {self.torch.__version__}: {what}{why}", flush=True)
        if self.archs and (other := toolchain.other_cuda(self.torch)):
            print(f"frs-kernels: {other}", flush=True)
        skipped = [] if self.archs else [LIBRARIES[1]]
        if self.inplace and not Path(sysconfig.get_path("include"), "Python.h").exists():
            print("frs-kernels: no Python.h (Debian: python3-dev), so no _host: only tests use it")
            skipped.append(LIBRARIES[2])
        self.extensions = [e for e in self.extensions if e.name not in skipped]

    def build_extensions(self):
        temp = Path(self.build_temp)
        targets = {e.name: self.get_ext_fullpath(e.name) for e in self.extensions}
        for folder in [temp, Path(targets[LIBRARIES[0]]).parent]:
            folder.mkdir(parents=True, exist_ok=True)
        with toolchain.Ninja(temp, self.cxx) as ninja:
            self.plan(ninja, targets)
        info = json.dumps(self.build_info(), indent=2)
        Path(targets[LIBRARIES[0]]).with_name("build_info.json").write_text(info + "\n")

    def plan(self, ninja, targets):
        """Which file is compiled how, and which library it goes into."""
        base = Path(self.torch.__file__).parent
        standard = "-std=c++20" if self.torch.__version__ >= (2, 13) else "-std=c++17"  # its headers need it
        stable = ["-isystem", f"{base}/include", f"-DTORCH_TARGET_VERSION={TARGET_ABI}", standard]
        plain = [*CXX_FLAGS, "-std=c++17", *shlex.split(os.environ.get("CXXFLAGS", ""))]
        linked = [*EXPORTS, *LD_FLAGS, f"-L{base}/lib"]

        shared = ninja.objects("cxx", "csrc/bind/*.cpp", plain + stable)
        kernels = ninja.objects("cxx", "csrc/cpu/*.cpp", plain)
        cpu = shared + kernels
        cpu += ninja.objects("cxx", "csrc/bind/cpu/*.cpp", plain + stable)
        variants = {isa: [*flags, f"-DFRS_ISA={isa}"] for isa, flags in self.isas.items()}
        for isa, more in variants.items():
            cpu += ninja.objects("cxx", "csrc/cpu/isa/*.cpp", plain + more, f".{isa}")
        ninja.build("link", targets[LIBRARIES[0]], cpu, [*linked, "-ltorch_cpu", "-pthread"])

        if LIBRARIES[1] in targets:
            gencode = [flag for arch in self.archs for flag in toolchain.gencode(arch)]
            cuda = shared + ninja.objects("nvcc", "csrc/cuda/*.cu", [*NVCC_FLAGS, "-std=c++17", *gencode])
            cuda += ninja.objects("nvcc", "csrc/bind/cuda/*.cpp", [*NVCC_FLAGS, *stable, "-DUSE_CUDA"])
            linked.insert(0, "-forward-unknown-to-host-compiler")  # LDFLAGS may have flags that nvcc lacks
            ninja.build("culink", targets[LIBRARIES[1]], cuda, [*linked, "-ltorch_cuda", "-ltorch_cpu"])

        if LIBRARIES[2] in targets:
            pybind = ["-isystem", toolchain.need("pybind11").get_include()]
            python = ["-isystem", sysconfig.get_path("include")]
            host = [path for path in kernels if path.name.startswith(("loss_plan.", "settings."))]
            for source in ("csrc/host.cpp", "csrc/host_tasks.cpp"):
                host += ninja.objects("cxx", source, plain + pybind + python)
            for isa, more in variants.items():
                host += ninja.objects("cxx", "csrc/host_math.cpp", plain + more, f".{isa}")
            ninja.build("link", targets[LIBRARIES[2]], host, [*LD_FLAGS, "-pthread"])

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
            "instruction_sets": list(self.isas),
            "nvcc": self.archs and toolchain.output([toolchain.find_nvcc(), "--version"]).split("\n")[-1],
            "cuda_archs": self.archs,
            "commit": toolchain.output(["git", "describe", "--always", "--dirty", "--abbrev=12"]) or None,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


class Wheel(bdist_wheel):
    """Names a wheel with libraries after what it needs: any Python 3, on Linux, of the compiler's target."""

    def get_tag(self):
        if self.root_is_pure:
            return super().get_tag()
        return "py3", "none", f"linux_{toolchain.target_machine(toolchain.find_cxx())}"


if MODE not in ("auto", "cuda", "cpu", "none"):
    toolchain.stop(f"FRS_BUILD={MODE!r} is unknown.", "It is one of auto, cuda, cpu, none.")
if DEBUG not in ("", "0", "1"):
    toolchain.stop(f"FRS_DEBUG={DEBUG!r} is unknown.", "It is 1 for a build with bounds checks, or 0.")
if int(__version__.split(".")[0]) < 77:
    toolchain.stop(f"setuptools {__version__} is too old.", 'Take a newer one: pip install "setuptools>=77"')
extensions = [] if MODE == "none" else [Extension(name, sources=[]) for name in LIBRARIES]
setup(ext_modules=extensions, cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel})
