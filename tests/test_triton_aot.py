"""The Triton kernels compiled ahead of time for several GPUs: no spills, no narrow accesses."""

import collections
import re

import programs
import pytest
import torch
from cases import INTERPRETED, tensors

triton = pytest.importorskip("triton", reason="needs triton")
if INTERPRETED:
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.errors import PTXASError  # noqa: E402

from frs_kernels.backends.triton import aot, launcher, launches  # noqa: E402
from frs_kernels.backends.triton.toolchain import OLDEST_GPU  # noqa: E402

TRITON = tuple(map(int, triton.__version__.split(".")[:2]))


def ids(variant):
    return variant.name


@pytest.mark.parametrize("variant", aot.variants(), ids=ids)
@pytest.mark.parametrize("target", aot.TARGETS)
def test_compiles_without_spills_and_with_wide_accesses(target, variant):
    variant = variant.on(aot.TARGETS[target])
    kernel = aot.compiled(variant, aot.TARGETS[target])
    registers, spilled = aot.resources(kernel)
    # Spilled before the loops, see plan.max_loss_registers.
    most = 16 if variant.max_registers and variant.name.startswith("loss") else 0
    if target == "sm_100" and TRITON >= (3, 8) and variant.name.startswith("loss"):
        most += 24  # at most ten registers in all, one of which is reloaded within a loop
    assert 0 < registers and spilled <= most, f"{spilled} bytes spilled with {registers} registers"
    if variant.vectorized_bytes:
        counts = aot.accesses(kernel)
        vectorized, is_fp64 = 16 * counts.get(16, 0), "fp64" in variant.name
        expected = variant.vectorized_bytes
        message = f"accesses by width: {counts}"
        assert vectorized >= expected if is_fp64 else vectorized == expected, message
        narrow = {1, 2} if is_fp64 else {1, 2, 8}  # masks of float64 are read one or two at a time
        assert not counts.keys() & narrow, message


def test_compiles_for_the_oldest_gpu_and_for_none_before():
    variant = next(v for v in aot.variants() if v.name == "loss bf16, location-major")
    major, minor = OLDEST_GPU
    aot.compiled(variant, GPUTarget("cuda", 10 * major + minor, 32))
    with pytest.raises(PTXASError, match="requires .target sm_70"):
        aot.compiled(variant, GPUTarget("cuda", 62, 32))


def test_an_unaligned_level_is_read_element_by_element():
    """The check above can fail: code for unaligned levels has two-byte accesses."""
    variant = next(v for v in aot.variants() if v.name == "loss bf16, location-major, some levels unaligned")
    assert 2 in aot.accesses(aot.compiled(variant, aot.TARGETS["sm_90"]))


def test_the_mask_keeps_subnormal_values():
    """sigmoid(-88) is 6e-39, which a product or quotient that flushes subnormals would turn into 0."""
    (variant,) = (v for v in aot.variants() if v.name == "mask bf16, location-major")
    ptx = aot.compiled(variant.on(aot.TARGETS["sm_90"]), aot.TARGETS["sm_90"]).asm["ptx"]
    assert re.search(r"\bdiv\.full\.f32", ptx) and not re.search(r"\bdiv\.approx", ptx)
    powers = re.findall(r"ex2\.approx\.ftz\.f32\s+(%r\d+)", ptx)
    products = re.findall(r"mul\.f32\s+%r\d+, (%r\d+), %r\d+;", ptx)
    assert powers and set(powers) <= set(products)  # exp(x) = ex2(remainder) * a power of two


@pytest.fixture
def fake_gpu(monkeypatch):
    """A driver that compiles for sm_90 and records launches instead of making them."""
    if torch.cuda.is_available():
        pytest.skip("there is a real GPU: see test_triton_gpu.py")
    from triton.runtime import driver

    from benchmarks.triton_stub import Driver

    fake = Driver((9, 0))
    fake.launches = []
    fake.launcher_cls = lambda source, metadata: lambda *a: fake.launches.append((a[0], a[9:]))
    monkeypatch.setattr(driver, "_active", fake)
    monkeypatch.setattr(launcher, "_COMPILED", {})
    return fake


def test_all_sizes_share_one_compilation_and_relaunches_pass_the_same_arguments(fake_gpu, monkeypatch):
    from frs_kernels.backends.triton.loss import loss_kernel

    monkeypatch.setattr(loss_kernel, "device_caches", collections.defaultdict(loss_kernel.create_binder))

    def call(sizes):
        common = {"sizes": sizes, "dtype": torch.bfloat16, "batch": 1}
        lists = [tensors(channels, **common) for channels in (8, 8, 16, 16)]
        launches.loss(*lists, [], [], 0, 1.0, None, 0.5, None, 2.0, None, 0.0, True, True, False)
        calls, fake_gpu.launches = fake_gpu.launches, []
        return calls, len(loss_kernel.device_caches[0][0])

    first, _ = call([(16, 24), (5, 7)])
    again, _ = call([(16, 24), (5, 7)])
    assert len(first) == 3
    for (grid, arguments), (grid_again, arguments_again) in zip(first, again, strict=True):
        assert grid == grid_again and len(arguments) == len(arguments_again)
        assert [type(a) for a in arguments] == [type(a) for a in arguments_again]
    for sizes in ([(20, 26), (5, 7)], [(48, 64), (13, 21)], [(1, 3), (1, 1)]):
        assert call(sizes)[1] == 1


def test_all_sizes_of_kl_share_one_compilation(fake_gpu, monkeypatch):
    from frs_kernels.backends.triton.kl import kl_kernel
    from frs_kernels.backends.triton.kl_launches import kl

    monkeypatch.setattr(kl_kernel, "device_caches", collections.defaultdict(kl_kernel.create_binder))

    def call(sizes, scale):
        common = {"sizes": sizes, "dtype": torch.bfloat16, "batch": 1}
        student, teacher = tensors(16, **common), tensors(16, **common)
        kl(student, teacher, [], False, 4, 1.0 + scale, 0, 1.0, None, scale, None, True, False)
        calls, fake_gpu.launches = fake_gpu.launches, []
        return calls, len(kl_kernel.device_caches[0][0])

    first, _ = call([(16, 24), (5, 7)], 1.0)
    again, _ = call([(16, 24), (5, 7)], 1.0)
    assert len(first) == len(again) == 2
    assert [(grid, len(arguments)) for grid, arguments in first] == [(g, len(a)) for g, a in again]
    for sizes in ([(20, 26), (5, 7)], [(48, 64), (13, 21)], [(1, 3), (1, 1)]):
        assert call(sizes, 0.5)[1] == 1


def test_the_key_of_a_kernel_does_not_depend_on_which_is_launched_first():
    """Otherwise another process would recompile what Triton's disk cache has."""
    mask_first = programs.output("triton_cache_keys.py", "mask_sums_kernel")
    loss_first = programs.output("triton_cache_keys.py", "loss_kernel")
    assert mask_first == loss_first and len(set(mask_first.split())) == 2
