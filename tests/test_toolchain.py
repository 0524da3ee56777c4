"""What is decided before anything is compiled: architectures, versions of CUDA, jobs. Machines are faked."""

import inspect
import os
import platform
import re
import types
from pathlib import Path

import pytest
import torch.utils.cpp_extension
from builds import TO_BLACKWELL, TURING_TO_HOPPER, architectures, fake_nvcc, machine, stub_compiler, toolchain

GIB = 2**30


def a_torch(*capabilities, cuda="13.0", version="2.11.0"):
    """What the build reads of torch, on a machine with GPUs of these compute capabilities."""
    return types.SimpleNamespace(
        __version__=version,
        version=types.SimpleNamespace(cuda=cuda),
        cuda=types.SimpleNamespace(
            device_count=lambda: len(capabilities), get_device_capability=capabilities.__getitem__
        ),
    )


@pytest.fixture
def nvcc(tmp_path, monkeypatch):
    """Makes CUDA_HOME a faked toolkit, with an nvcc of the release and the architectures that are given."""
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)

    def install(*release_and_archs):
        home = fake_nvcc(tmp_path, *release_and_archs)
        monkeypatch.setenv("CUDA_HOME", home)
        return Path(home, "bin", "nvcc")

    return install


SPELLINGS = {
    "8.0": "8.0", "8.0,9.0": "8.0 9.0", "8.0;9.0": "8.0 9.0", " 9.0 ; 8.0, ": "8.0 9.0",
    "7.5 8.0 9.0+PTX": "8.0 9.0+PTX",
    "Ampere": "8.0 8.6+PTX", "Ada": "8.9+PTX", "Hopper": "9.0+PTX", "hopper": "9.0+PTX",
    "Hopper+PTX": "9.0+PTX",
    "Blackwell": "10.0 10.3 12.0 12.1+PTX", "Ampere+Tegra": "8.7", "Turing;Hopper": "9.0+PTX",
    "9.0 Hopper 9.0": "9.0+PTX", "9.0a 9.0": "9.0 9.0a", "10.0f+PTX": "10.0f+PTX",
    "All": "8.0 8.6 8.7 8.9 9.0 10.0 10.3 11.0 12.0 12.1+PTX",
    "Common": "8.0 8.6 8.9 9.0 10.0 12.0+PTX",
    "native": "9.0", "": "9.0", " ;": "9.0",
}  # fmt: skip


@pytest.mark.parametrize("given", SPELLINGS)
def test_every_spelling_is_resolved(nvcc, monkeypatch, given):
    nvcc()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    assert " ".join(toolchain.cuda_archs(a_torch((9, 0)))) == SPELLINGS[given]


def test_what_is_dropped_has_a_line_that_says_so(nvcc, monkeypatch, capsys):
    nvcc("12.8", TURING_TO_HOPPER)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5 8.0 8.0a 10.0f 12.0+PTX Turing")
    assert toolchain.cuda_archs(a_torch()) == ["8.0"]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("frs-kernels: no CUDA kernels for ") and line.count("7.5 (older than 8.0") == 1
    assert [line.count(f"{arch} (unknown to this nvcc)") for arch in ("8.0a", "10.0f", "12.0")] == [1, 1, 1]
    nvcc("12.8", TO_BLACKWELL)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "10.0,10.0f")
    assert toolchain.cuda_archs(a_torch()) == ["10.0"], "families came with 12.9"
    assert "10.0f (unknown to this nvcc)" in capsys.readouterr().out
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0a")
    assert toolchain.cuda_archs(a_torch()) == ["9.0a"] and capsys.readouterr().out == ""


@pytest.mark.parametrize("given", ["7.5", "Volta", "12.0", "7.5 12.0+PTX"])
def test_nothing_left_is_an_error(nvcc, monkeypatch, given):
    nvcc("12.6", TURING_TO_HOPPER)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    with pytest.raises(SystemExit, match=f"no architecture is left of TORCH_CUDA_ARCH_LIST='{given[:3]}"):
        toolchain.cuda_archs(a_torch())


@pytest.mark.parametrize("word", ["Hoper", "90", "sm_90", "9.0b", "9.0+ptxas", "+PTX", "9.0.1"])
def test_a_misspelled_word_is_an_error(nvcc, monkeypatch, word):
    nvcc()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", f"8.0 {word}")
    with pytest.raises(SystemExit) as stopped:
        toolchain.cuda_archs(a_torch())
    assert f"TORCH_CUDA_ARCH_LIST has {word!r}, which is no architecture" in str(stopped.value)
    assert "9.0+PTX" in str(stopped.value) and "Hopper" in str(stopped.value)


def test_the_names_are_those_of_torch():
    """torch has its table inside a function, so its source is read. Releases may have other names."""
    source = inspect.getsource(torch.utils.cpp_extension)
    theirs = {
        name.lower(): archs.split(";")
        for name, archs in re.findall(r"\('([\w+]+)', '([\d.;+PTX]+)'\)", source)
    }
    common = theirs.keys() & architectures.NAMES.keys()
    assert {"ampere", "hopper", "blackwell"} <= common
    assert {name: theirs[name] for name in common} == {name: architectures.NAMES[name] for name in common}


def test_without_a_list_the_gpus_decide(nvcc, capsys):
    nvcc("12.8", TURING_TO_HOPPER)
    assert toolchain.cuda_archs(a_torch((9, 0), (8, 0), (9, 0))) == ["8.0", "9.0"]
    assert toolchain.cuda_archs(a_torch((12, 0), (8, 6))) == ["8.6", "9.0+PTX"], "newer than this nvcc"
    assert toolchain.cuda_archs(a_torch()) == ["8.0", "8.6", "8.9", "9.0+PTX"], "a container without a GPU"
    assert capsys.readouterr().out == ""
    assert toolchain.cuda_archs(a_torch((7, 5), (8, 0))) == ["8.0"]
    assert "no CUDA kernels for 7.5 (older than 8.0" in capsys.readouterr().out


def test_a_driver_too_old_for_torch_counts_as_no_gpu(nvcc):
    def too_old(index):
        raise RuntimeError("The NVIDIA driver on your system is too old")

    nvcc()
    machine_with_old_driver = a_torch((9, 0))
    machine_with_old_driver.cuda.get_device_capability = too_old
    assert toolchain.cuda_archs(machine_with_old_driver) == toolchain.cuda_archs(a_torch())


def test_flags_of_an_architecture():
    assert toolchain.gencode("9.0a") == ["-gencode=arch=compute_90a,code=sm_90a"]
    assert toolchain.gencode("12.0+PTX")[1] == "-gencode=arch=compute_120,code=compute_120"


def test_cuda_is_decided_on_toolkit_and_torch(nvcc, monkeypatch):
    nvcc()
    assert toolchain.missing_for_cuda(a_torch()) == toolchain.missing_for_cuda(a_torch((9, 0))) == ""
    assert toolchain.missing_for_cuda(a_torch(cuda=None)) == "torch 2.11.0 is a build without CUDA"
    assert "the GPU has compute capability 7.5" in toolchain.missing_for_cuda(a_torch((7, 0), (7, 5)))
    assert toolchain.missing_for_cuda(a_torch((7, 5), (8, 0))) == ""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    assert toolchain.missing_for_cuda(a_torch((7, 5))) == "", "built for another machine"
    tool = nvcc("11.8")
    assert toolchain.missing_for_cuda(a_torch()) == f"{tool} is of CUDA 11.8, older than 12.0"
    monkeypatch.setattr(toolchain, "find_nvcc", lambda: None)
    assert toolchain.missing_for_cuda(a_torch(cuda=None)).count("nvcc was not found") == 1


def test_other_major_versions_of_cuda_are_said(nvcc):
    nvcc("13.0")
    assert toolchain.other_cuda(a_torch(cuda="13.2")) == ""
    said = toolchain.other_cuda(a_torch(cuda="12.8"))
    assert (
        said.startswith("nvcc is of CUDA 13.0 and torch of CUDA 12.8: ") and "driver for CUDA 13 or" in said
    )
    nvcc("12.9")
    assert "driver for CUDA 12 or" in toolchain.other_cuda(a_torch(cuda="13.0"))


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A machine with 64 cores and 128 GiB, as (its root folder, a function that writes its files)."""
    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)

    def write(path, content):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")

    write("proc/meminfo", f"MemTotal: 1 kB\nMemAvailable:   {128 * 2**20} kB")
    return tmp_path, write


def test_a_host_alone(host):
    root, write = host
    assert toolchain.jobs(root) == 64
    write("proc/meminfo", f"MemAvailable: {8 * 2**20} kB")
    assert toolchain.jobs(root) == 5


@pytest.mark.parametrize("own", ["/", "/kubepods/burstable/pod1", "/../../seen/from/elsewhere"])
def test_cgroup_2(host, own):
    """A container that sees its own group as the top, by whatever name."""
    root, write = host
    write("proc/self/cgroup", f"0::{own}")
    write("sys/fs/cgroup/memory.max", 4 * GIB)
    write("sys/fs/cgroup/cpu.max", "200000 100000")
    assert (machine.cores(root), machine.free_memory(root)) == (2, 4 * GIB)
    assert toolchain.jobs(root) == 2
    write("sys/fs/cgroup/cpu.max", "max 100000")
    assert machine.cores(root) == 64 and toolchain.jobs(root) == 2, "memory alone bounds them too"
    write("sys/fs/cgroup/memory.max", "max")
    assert toolchain.jobs(root) == 64


def test_cgroup_2_counts_every_group_above(host):
    root, write = host
    write("proc/self/cgroup", "0::/user.slice/build.service")
    write("sys/fs/cgroup/user.slice/build.service/memory.max", "max")
    write("sys/fs/cgroup/user.slice/build.service/memory.high", 12 * GIB)
    write("sys/fs/cgroup/user.slice/memory.max", 16 * GIB)
    write("sys/fs/cgroup/user.slice/memory.current", 14 * GIB)
    write("sys/fs/cgroup/user.slice/memory.stat", f"anon 5\nfile 7\ninactive_file {6 * GIB}")
    write("sys/fs/cgroup/user.slice/build.service/cpu.max", "350000 100000")
    write("sys/fs/cgroup/user.slice/cpu.max", "1600000 100000")
    write("sys/fs/cgroup/other.slice/cpu.max", "100000 100000")
    assert machine.free_memory(root) == 8 * GIB, "a file's pages that can be dropped are free"
    assert (machine.cores(root), toolchain.jobs(root)) == (4, 4)
    write("sys/fs/cgroup/user.slice/build.service/memory.high", 6 * GIB)
    assert machine.free_memory(root) == 6 * GIB, "above it, the kernel slows the group down"


def test_cgroup_1(host):
    root, write = host
    write("proc/self/cgroup", "9:name=systemd:/\n4:memory:/docker/1a2b\n2:cpu,cpuacct:/docker/1a2b\n0::/")
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", 4 * GIB)
    write("sys/fs/cgroup/memory/memory.usage_in_bytes", GIB)
    write("sys/fs/cgroup/memory/memory.stat", f"inactive_file 0\ntotal_inactive_file {GIB // 2}")
    write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", 200000)
    write("sys/fs/cgroup/cpu/cpu.cfs_period_us", 100000)
    assert (machine.cores(root), machine.free_memory(root)) == (2, 3.5 * GIB)
    assert toolchain.jobs(root) == 2
    write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", -1)
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    assert toolchain.jobs(root) == 64


def test_a_full_or_unreadable_machine_has_one_job_or_its_cores(host):
    root, write = host
    write("proc/self/cgroup", "0::/")
    write("sys/fs/cgroup/memory.max", GIB)
    write("sys/fs/cgroup/memory.current", 2 * GIB)
    write("sys/fs/cgroup/cpu.max", "50000 100000")
    assert machine.cores(root) == toolchain.jobs(root) == 1
    assert machine.free_memory(root / "nothing") is None and toolchain.jobs(root / "nothing") == 64


def test_max_jobs(host, monkeypatch):
    root, write = host
    monkeypatch.setenv("MAX_JOBS", "3")
    assert toolchain.jobs(root) == 3
    monkeypatch.setenv("MAX_JOBS", "1000000")
    assert toolchain.jobs(root) == 128 * GIB // 1_500_000_000, "no more than memory holds"
    for wrong in ("four", "0", "-1", "2.5"):
        monkeypatch.setenv("MAX_JOBS", wrong)
        with pytest.raises(SystemExit, match=f"MAX_JOBS='{wrong}' is no number"):
            toolchain.jobs(root)


def test_the_machine_that_runs_this():
    assert 1 <= machine.cores() <= os.cpu_count() and machine.free_memory() != 0


def test_the_target_is_that_of_the_compiler():
    assert toolchain.target_machine(stub_compiler("aarch64")) == "aarch64"
    assert toolchain.target_machine("true") == platform.machine()  # it names none
