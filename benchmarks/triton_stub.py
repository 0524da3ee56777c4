"""Compiles the Triton kernels of the GPU suite into Triton's cache, on a machine without a GPU.

    python -m benchmarks.triton_stub CAPABILITY SHARD SHARDS      (called by benchmarks.prebuild)

The GPU tests and the benchmarks run on tensors without memory (device "meta") and with a driver that launches
nothing. Tensors have no values, so comparisons are made to pass, and a test that needs a number stops there.
"""

import contextlib
import logging
import subprocess
import sys
import tempfile
from unittest import mock

import hypothesis
import pytest
import torch
from torch.overrides import TorchFunctionMode
from triton import knobs
from triton.backends.nvidia.driver import CudaDriver, CudaLauncher
from triton.runtime import driver

from benchmarks.measure import Call
from benchmarks.providers import PROVIDERS
from benchmarks.selection import pairs, races
from benchmarks.sources import ROOT
from benchmarks.workloads import OPS, Case, make_inputs
from frs_kernels import dispatch, library
from frs_kernels.backends.triton import register

NAMESPACE = "frs_kernels_stub"


class Driver(CudaDriver):
    """Answers what Triton asks a driver before it compiles, and launches nothing."""

    def __init__(self, capability: tuple[int, int]):
        self.utils, self.launcher_cls = self, _launcher
        self.get_current_device, self.get_current_stream = lambda: 0, lambda _: 0
        self.get_device_capability = lambda _=0: capability

    def load_binary(self, *_):
        return object(), 1, 64, 0, 1024  # module, function, registers, spills, threads of a program at most

    def get_device_properties(self, _):
        return {"max_shared_mem": 227 << 10}


def _launcher(source, metadata):
    # Triton 3.6 compiles a launcher into the cache, which cannot be loaded without a driver. Triton 3.8 has
    # one for all kernels, in its driver.
    with contextlib.suppress(ImportError, AttributeError):
        CudaLauncher(source, metadata)
    return lambda *_: None


class Backend:
    """The Triton kernels as a backend for tensors without memory."""

    NAME = "triton"

    @staticmethod
    def unavailable():
        return None

    @staticmethod
    def unavailable_on(device):
        return None

    @staticmethod
    def unsupported(inputs):
        return None

    @staticmethod
    def namespace():
        return getattr(torch.ops, NAMESPACE)


class WithoutMemory(TorchFunctionMode):
    """Creates tensors for "cuda" on the device "meta", and answers where the value of one is read."""

    ANSWERS = {torch.Tensor.item: 1.0, torch.Tensor.__bool__: True, torch.equal: True, torch.allclose: True}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.ANSWERS:
            return self.ANSWERS[function]
        kwargs = {name: _on_meta(value) for name, value in (kwargs or {}).items()}
        return function(*map(_on_meta, args), **kwargs)


def _on_meta(value):
    wanted = isinstance(value, (str, torch.device)) and str(value).startswith("cuda")
    return torch.device("meta") if wanted else value


class Plugin:
    """Runs one shard of the tests that pytest collects, with comparisons that always pass."""

    def __init__(self, shard: int, shards: int):
        self.shard, self.shards = shard, shards

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = items[self.shard :: self.shards]

    def pytest_collection_finish(self):
        if (cases := sys.modules.get("cases")) is not None:
            cases.assert_as_accurate = _nothing
        torch.testing.assert_close = torch.cuda.synchronize = _nothing
        torch.library.opcheck = lambda operator, arguments: operator(*arguments)
        torch.compile = lambda function=None, **_: function or (lambda each: each)
        # The same inputs in every run, so that a second run compiles nothing.
        hypothesis.settings.register_profile("same", hypothesis.settings(), derandomize=True)
        hypothesis.settings.load_profile("same")


def _nothing(*_, **__):
    return None


def install(capability: tuple[int, int], folder: str) -> None:
    """Makes this process believe that it has a GPU. ``folder`` gets an empty libcuda to link with."""
    subprocess.run(["gcc", "-shared", "-o", f"{folder}/libcuda.so.1", "-x", "c", "/dev/null"], check=True)
    knobs.nvidia.libcuda_path = folder
    logging.getLogger("triton.runtime.build").setLevel(logging.ERROR)  # cached launchers cannot be loaded
    knobs.compilation.store_binary_only = True
    driver.set_active(Driver(capability))
    torch.cuda.is_available = lambda: True
    torch.cuda.get_device_capability = lambda *_: capability
    Backend.library = library.define(NAMESPACE)  # keeps the registrations alive
    register(Backend.library, ["Meta"])
    dispatch.BACKENDS["triton"] = Backend


class _Generator:
    """A stand-in for torch.Generator, as no tensor has values."""

    def __init__(self, device):
        pass

    def manual_seed(self, seed):
        return None


def benchmark_cases() -> list[Case]:
    """The cases in which the GPU suite measures Triton kernels."""
    of_ops = [case for case, name in pairs(OPS, "quick", "cuda") if name == "triton"]
    return list(dict.fromkeys([*of_ops, *(case for case, _ in races("standard", "cuda"))]))


def run_benchmarks(cases: list[Case]) -> None:
    for case in cases:
        with mock.patch("torch.Generator", _Generator):
            inputs = make_inputs(case, "cuda")
        call = Call(case, PROVIDERS["triton"], inputs, "cuda", _nothing)
        call.prepare()
        call.run()


def main(capability: str, shard: int, shards: int) -> int:
    process, compiled = f"process {shard + 1} of {shards}", []

    def count(cache_hit, **_):
        if not cache_hit:
            compiled.append(1)
            if len(compiled) % 25 == 0:
                print(f"{process}: {len(compiled)} Triton kernels", flush=True)

    knobs.compilation.listener = count
    major, minor = map(int, capability.split("."))
    with tempfile.TemporaryDirectory() as folder, WithoutMemory():
        install((major, minor), folder)
        run_benchmarks(benchmark_cases()[shard::shards])
        wanted = [str(ROOT / "tests"), "-m", "gpu and not slow", "-k", "triton"]
        quietly = "-s -p no:terminal -p no:cacheprovider".split()
        code = pytest.main([*wanted, *quietly], plugins=[Plugin(shard, shards)])
    print(f"{process}: {len(compiled)} Triton kernels compiled", flush=True)
    return 0 if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
