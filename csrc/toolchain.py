"""What setup.py builds with: the compilers, and the messages when one is missing. Standard library only."""

import glob
import importlib
import os
import platform
import re
import shlex
import shutil
import subprocess

import architectures
import machine

OLDEST_NVCC = (12, 0)  # the first with C++20, in which the headers of torch 2.13 are written
PYTHON_ALONE = "The Python part alone (backends eager and Triton): FRS_BUILD=none pip install ."


def stop(problem, way_out):
    raise SystemExit(f"\nfrs-kernels cannot be built: {problem}\n{way_out}\n")


def need(module):
    """A module of the build environment, or the commands that make it seen."""
    try:
        return importlib.import_module(module)
    except ImportError:
        no_module(module)


def no_module(module):
    packages = '"torch>=2.10" "setuptools>=77" ninja "pybind11>=3"'
    stop(
        f"the build environment has no {module}.",
        "pip and uv build in an environment of their own, unless told otherwise. Install what the build\n"
        "needs, then let the build see it, with pip or with uv:\n"
        f"    pip install {packages}\n"
        "    pip install --no-build-isolation .\n\n"
        f"    uv pip install {packages}\n"
        "    uv pip install --no-build-isolation .\n" + PYTHON_ALONE,
    )


def output(command):
    """What a command prints, or nothing if it fails."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, text=True, capture_output=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def find_cxx():
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "c++", "clang++"]
    return next((n for n in names if shutil.which(shlex.split(n)[0])), None) or stop(
        f"no C++ compiler on PATH ({', '.join(names)}).",
        "Install one (Debian, Ubuntu: apt-get install g++) and try again.\n" + PYTHON_ALONE,
    )


def target_machine(cxx):
    """The architecture that the compiler compiles for, as in the name of a wheel: x86_64, aarch64."""
    return output([*shlex.split(cxx), "-dumpmachine"]).partition("-")[0] or platform.machine()


def find_nvcc():
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    places = [f"{home}/bin/nvcc" for home in homes] + ["nvcc", "/usr/local/cuda/bin/nvcc"]
    return next(filter(None, map(shutil.which, places)), None)


def find_ninja():
    """The one on PATH, else that of the Python package: a venv that is not active is not on PATH."""
    return shutil.which("ninja") or shutil.which("ninja", path=need("ninja").BIN_DIR) or no_module("ninja")


def nvcc_version():
    """(major, minor) of the CUDA toolkit, or (0, 0) if its nvcc does not say."""
    release = re.search(r"release (\d+)\.(\d+)", output([find_nvcc(), "--version"]))
    return (int(release[1]), int(release[2])) if release else (0, 0)


def dotted(version):
    return ".".join(map(str, version))


def missing_for_cuda(torch):
    """Why the CUDA kernels cannot be built here, or nothing. No GPU is needed."""
    reasons = []
    if not find_nvcc():
        reasons.append("nvcc was not found (CUDA_HOME, PATH, /usr/local/cuda)")
    elif (0, 0) < nvcc_version() < OLDEST_NVCC:
        reasons.append(f"{find_nvcc()} is of CUDA {dotted(nvcc_version())}, older than {dotted(OLDEST_NVCC)}")
    if not torch.version.cuda:
        reasons.append(f"torch {torch.__version__} is a build without CUDA")
    elif not given_archs() and (own := gpus(torch)) and own[-1] < architectures.OLDEST:
        reasons.append(f"the GPU has compute capability {dotted(own[-1])}, and the kernels need 8.0 or later")
    return " and ".join(reasons)


def other_cuda(torch):
    """What follows if nvcc and torch are of different major versions of CUDA, else nothing.

    It is no error: the kernels bring their own CUDA runtime and include none of torch's headers, and the
    library calls torch through C functions alone. The driver is all that the two share.
    """
    nvcc = nvcc_version()
    if nvcc == (0, 0) or nvcc[0] == int(torch.version.cuda.split(".")[0]):
        return ""
    return (
        f"nvcc is of CUDA {dotted(nvcc)} and torch of CUDA {torch.version.cuda}: "
        f"the kernels need a driver for CUDA {nvcc[0]} or later"
    )


def given_archs():
    return os.environ.get("TORCH_CUDA_ARCH_LIST", "")


def gpus(torch):
    """The compute capabilities of the GPUs, none if the driver is too old for this torch."""
    try:
        return sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    except RuntimeError:
        return []


def cuda_archs(torch):
    """What to compile for (see architectures.py). A printed line says what is left out, and why."""
    given = given_archs()
    known = architectures.known(output([find_nvcc(), "--list-gpu-arch"]), nvcc_version())
    try:
        archs, dropped = architectures.usable(architectures.asked(given, gpus(torch), known), known)
    except ValueError as word:
        stop(f"TORCH_CUDA_ARCH_LIST has {str(word)!r}, which is no architecture.", architectures.SPELLINGS)
    without = ", ".join(f"{arch} ({reason})" for arch, reason in dropped.items())
    if not archs:
        stop(
            f"no architecture is left of TORCH_CUDA_ARCH_LIST={given!r}: {without or 'nvcc lists none'}.",
            "Name others, or leave the CUDA kernels out: FRS_BUILD=cpu.",
        )
    if without:
        print(f"frs-kernels: no CUDA kernels for {without}", flush=True)
    return archs


def gencode(arch):
    number = arch.split("+")[0].replace(".", "")
    kinds = ["sm", "compute"] if arch.endswith("+PTX") else ["sm"]
    return [f"-gencode=arch=compute_{number},code={kind}_{number}" for kind in kinds]


def jobs(root="/"):
    """MAX_JOBS or the cores, but no more compilers than free memory holds at 1.5 GB each, if it is known."""
    wanted = os.environ.get("MAX_JOBS") or str(machine.cores(root))
    if not wanted.isdecimal() or int(wanted) < 1:
        stop(
            f"MAX_JOBS={wanted!r} is no number of compilers at a time.",
            "It is 1 or more. Unset, it follows from cores and memory.",
        )
    free = machine.free_memory(root)
    return int(wanted) if free is None else max(1, min(int(wanted), free // 1_500_000_000))


class Ninja:
    """A ninja file being written: `with Ninja(folder, cxx) as ninja: ninja.build(...)` runs it at the end."""

    def __init__(self, folder, cxx):
        self.folder, self.text = folder, [f"builddir = {folder}"]
        for name, command in [
            ("cxx", f"{cxx} -MMD -MF $out.d $flags -c $in -o $out"),
            ("nvcc", f"{find_nvcc()} -MMD -MF $out.d $flags -c $in -o $out"),
            ("link", f"{cxx} -shared $in $flags -o $out"),
            ("culink", f"{find_nvcc()} -shared -cudart=static $in $flags -o $out"),
        ]:
            depends = ["  depfile = $out.d", "  deps = gcc"] if "$out.d" in command else []
            self.text += [f"rule {name}", f"  command = {command}", f"  description = {name} $out", *depends]

    def build(self, rule, target, sources, flags):
        target, *sources = (re.sub(r"[$ :]", r"$\g<0>", str(path)) for path in [target, *sources])
        self.text += [f"build {target}: {rule} {' '.join(sources)}"]
        self.text += [f"  flags = {shlex.join(flags).replace('$', '$$')}"]

    def objects(self, rule, pattern, flags, variant=""):
        """Every source that the pattern matches, compiled; the objects' paths."""
        compiled = {src: self.folder / f"{src}{variant}.o" for src in sorted(glob.glob(pattern))}
        for source, target in compiled.items():
            self.build(rule, target, [source], flags)
        return list(compiled.values())

    def __enter__(self):
        import fcntl  # not on Windows, where only FRS_BUILD=none works

        self.lock = open(self.folder / "lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)  # two builds in one folder would overwrite each other's objects
        return self

    def __exit__(self, failure, *_):
        with self.lock:
            if not failure:
                self.run()

    def run(self):
        file = self.folder / "build.ninja"
        file.write_text("\n".join(self.text) + "\n")
        command = [find_ninja(), "-f", str(file), "-j", str(jobs())]
        if subprocess.run(command).returncode:
            stop(
                "a compiler failed, see above.",
                f"If it was killed, memory ran out: MAX_JOBS=1.\n{PYTHON_ALONE}",
            )
