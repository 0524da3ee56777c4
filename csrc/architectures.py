"""Which GPUs the CUDA kernels are compiled for: the spellings of TORCH_CUDA_ARCH_LIST. Standard library only.

An architecture is written as torch writes it: "9.0" is machine code. "9.0+PTX" has PTX too, which the driver
compiles for newer GPUs. "9.0a" runs on that chip alone and "10.0f" on its family.
"""

import re

OLDEST = (8, 0)  # csrc/cuda/ring.cuh copies with cp.async
COMMON = ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]  # what also runs on the others of their major versions
NAMES = {  # torch's, of torch.utils.cpp_extension
    "kepler": ["3.5+PTX"], "kepler+tesla": ["3.7"], "maxwell": ["5.0", "5.2+PTX"], "maxwell+tegra": ["5.3"],
    "pascal": ["6.0", "6.1+PTX"], "volta": ["7.0+PTX"], "volta+tegra": ["7.2"], "turing": ["7.5+PTX"],
    "ampere": ["8.0", "8.6+PTX"], "ampere+tegra": ["8.7"], "ada": ["8.9+PTX"], "hopper": ["9.0+PTX"],
    "blackwell": ["10.0", "10.3", "12.0", "12.1+PTX"], "blackwell+tegra": ["11.0"], "rubin": ["10.7+PTX"],
}  # fmt: skip
SPELLINGS = (
    "It may have numbers (8.0, 9.0a, 9.0+PTX), generations (Ampere, Ada, Hopper, Blackwell), Common, All\n"
    "and native, with spaces, semicolons or commas between them."
)


def version(arch):
    """(10, 0) of "10.0", "10.0a" and "10.0+PTX"."""
    return tuple(map(int, re.findall(r"\d+", arch)))


def known(listing, release):
    """What nvcc of a release knows: the architectures that it lists, and those for one chip or one family."""
    plain = {f"{major}.{minor}" for major, minor in re.findall(r"compute_(\d+)(\d)", listing)}
    chips = {f"{arch}a" for arch in plain if version(arch) >= (9, 0)}
    families = {f"{arch}f" for arch in plain if version(arch) >= (10, 0) and release >= (12, 9)}
    return plain | chips | families


def asked(given, gpus, known):
    """What ``given`` stands for. Nothing in it means native, which is the ``gpus``, or Common without any.

    Raises ValueError with the word that stands for none.
    """
    words = re.findall(r"[^\s;,]+", given) or ["native"]
    return [arch for word in words for arch in _meaning(word, gpus, known)]


def usable(archs, known):
    """Those that the kernels and nvcc support, each once and in order, and why others are not among them."""
    ptx, dropped = {}, {}
    for arch in archs:
        number, plus, _ = arch.partition("+")
        if version(number) < OLDEST:
            dropped[number] = "older than 8.0, the oldest for these kernels"
        elif number not in known:
            dropped[number] = "unknown to this nvcc"
        else:
            ptx[number] = ptx.get(number, False) or bool(plus)
    ordered = sorted(ptx, key=lambda number: (version(number), number))
    return [number + "+PTX" * ptx[number] for number in ordered], dropped


def _meaning(word, gpus, known):
    name, plus_ptx = re.fullmatch(r"(.*?)(\+ptx)?", word.lower()).groups()
    plain = sorted((arch for arch in known if arch[-1].isdigit()), key=version)
    if name in ("native", "auto") and gpus:
        return [_serving(gpu, plain) for gpu in gpus]
    if name in ("native", "auto", "common", "all"):
        archs = [arch for arch in plain if version(arch) >= OLDEST and (name == "all" or arch in COMMON)]
        plus_ptx = True
    elif re.fullmatch(r"\d+\.\d[af]?", name):
        archs = [name]
    elif name in NAMES:
        archs = NAMES[name]
    else:
        raise ValueError(word)
    return [*archs[:-1], archs[-1].partition("+")[0] + "+PTX"] if plus_ptx and archs else archs


def _serving(gpu, plain):
    """The architecture of a GPU, or PTX of the one before it if the GPU is newer than this nvcc."""
    before = [arch for arch in plain if OLDEST <= version(arch) <= gpu]
    if not before or version(before[-1]) == gpu:
        return "{}.{}".format(*gpu)
    return before[-1] + "+PTX"
