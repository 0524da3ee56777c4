"""What setup.py builds with: the compilers, and the messages when one is missing. Standard library only."""

import glob
import importlib
import os
import re
import shlex
import shutil
import subprocess

ARCHS = ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]
PYTHON_ALONE = "The Python part alone (backends eager and Triton): FRS_BUILD=none pip install ."


def stop(problem, way_out):
    raise SystemExit(f"\nfrs-kernels cannot be built: {problem}\n{way_out}\n")


def need(module):
    """A module of the build environment, or the command that makes it seen."""
    try:
        return importlib.import_module(module)
    except ImportError:
        stop(
            f"the build environment has no {module}.",
            "Install what the build needs, then let the build see it:\n"
            '    pip install "torch>=2.10" "setuptools>=77" ninja pybind11\n'
            "    pip install --no-build-isolation .\n" + PYTHON_ALONE,
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


def machine(cxx):
    """The architecture that the compiler compiles for, as in the name of a wheel: x86_64, aarch64."""
    return output([*shlex.split(cxx), "-dumpmachine"]).partition("-")[0]


def find_nvcc():
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    places = [f"{home}/bin/nvcc" for home in homes] + ["nvcc", "/usr/local/cuda/bin/nvcc"]
    return next(filter(None, map(shutil.which, places)), None)


def missing_for_cuda(torch):
    """Why the CUDA kernels cannot be built here, or nothing. No GPU is needed."""
    reasons = {
        "nvcc was not found (CUDA_HOME, PATH, /usr/local/cuda)": not find_nvcc(),
        f"torch {torch.__version__} is a build without CUDA": not torch.version.cuda,
    }
    return " and ".join(reason for reason, holds in reasons.items() if holds)


def cuda_archs(torch):
    """TORCH_CUDA_ARCH_LIST, else the GPUs of this machine, else all of ARCHS that this nvcc supports."""
    if given := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return given.replace(";", " ").split()
    if gpus := torch.cuda.device_count():
        return sorted({"{}.{}".format(*torch.cuda.get_device_capability(i)) for i in range(gpus)})
    known = output([find_nvcc(), "--list-gpu-arch"]).replace("compute_", "").split()
    return [arch for arch in ARCHS if arch.split("+")[0].replace(".", "") in known]


def gencode(arch):
    number = arch.split("+")[0].replace(".", "")
    kinds = ["sm", "compute"] if arch.endswith("+PTX") else ["sm"]
    return [f"-gencode=arch=compute_{number},code={kind}_{number}" for kind in kinds]


def jobs():
    """MAX_JOBS or the cores, but no more compilers than free memory holds at 1.5 GB each, if it is known."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = int(os.environ.get("MAX_JOBS") or cores)
    try:
        with open("/proc/meminfo") as meminfo:
            free = next(int(line.split()[1]) for line in meminfo if line.startswith("MemAvailable"))
    except OSError:  # not Linux
        return max(1, wanted)
    return max(1, min(wanted, free // 1_500_000))


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
        command = [f"{need('ninja').BIN_DIR}/ninja", "-f", str(file), "-j", str(jobs())]
        if subprocess.run(command).returncode:
            stop("a compiler failed, see above.", PYTHON_ALONE)
