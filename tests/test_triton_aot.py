"""Every Triton kernel compiled ahead of time for the GPUs it is meant for: no spills, no narrow accesses."""

import collections
import re

import programs
import pytest
import torch
from cases import INTERPRETED, tensors

pytest.importorskip("triton", reason="needs triton")
if INTERPRETED:
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from frs_kernels.backends.triton import aot, launch, operators  # noqa: E402


def ids(variant):
    return variant.name


@pytest.mark.parametrize("variant", aot.variants(), ids=ids)
@pytest.mark.parametrize("target", aot.TARGETS)
def test_compiles_without_spills_and_with_wide_accesses(target, variant):
    variant = variant.on(aot.TARGETS[target])
    kernel = aot.compiled(variant, aot.TARGETS[target])
    registers, spilled = aot.resources(kernel)
    most = 8 if variant.registers else 0  # what does not fit is stored before the loops: plan.loss_registers
    assert 0 < registers and spilled <= most, f"{spilled} bytes spilled with {registers} registers"
    if variant.wide_bytes:
        found = aot.accesses(kernel)
        wide, double = 16 * found.get(16, 0), "fp64" in variant.name
        right = wide >= variant.wide_bytes if double else wide == variant.wide_bytes
        assert right, f"accesses by width: {found}"
        narrow = {1, 2} if double else {1, 2, 8}  # maps of float64 are read one or two at a time
        assert not found.keys() & narrow, f"accesses by width: {found}"


def test_an_unaligned_level_is_read_element_by_element():
    """The check above can fail: without the promise of alignment there are two-byte accesses."""
    variant = next(v for v in aot.variants() if v.name == "loss bf16, location-major, some levels unaligned")
    assert 2 in aot.accesses(aot.compiled(variant, aot.TARGETS["sm_90"]))


def test_the_mask_keeps_subnormal_scores():
    """sigmoid(-88) is 6e-39: a product or quotient that is flushed to zero would make it 0."""
    (variant,) = (v for v in aot.variants() if v.name == "mask bf16, location-major")
    ptx = aot.compiled(variant.on(aot.TARGETS["sm_90"]), aot.TARGETS["sm_90"]).asm["ptx"]
    assert re.search(r"\bdiv\.full\.f32", ptx) and not re.search(r"\bdiv\.approx", ptx)
    powers = re.findall(r"ex2\.approx\.ftz\.f32\s+(%r\d+)", ptx)
    products = re.findall(r"mul\.f32\s+%r\d+, (%r\d+), %r\d+;", ptx)
    assert powers and set(powers) <= set(products)  # the power of a remainder, times a power of two


@pytest.fixture
def pretended_gpu(monkeypatch):
    """A driver that compiles for sm_90 and records launches instead of making them."""
    if torch.cuda.is_available():
        pytest.skip("there is a real GPU: see test_triton_gpu.py")
    from triton.runtime import driver

    from benchmarks.triton_stub import Driver

    pretended = Driver((9, 0))
    pretended.launches = []
    pretended.launcher_cls = lambda source, metadata: lambda *a: pretended.launches.append((a[0], a[9:]))
    monkeypatch.setattr(driver, "_active", pretended)
    monkeypatch.setattr(launch, "_COMPILED", {})
    return pretended


def test_all_sizes_share_a_compilation_and_relaunches_pass_the_same(pretended_gpu, monkeypatch):
    from frs_kernels.backends.triton.loss import loss_kernel

    monkeypatch.setattr(loss_kernel, "device_caches", collections.defaultdict(loss_kernel.create_binder))

    def call(sizes):
        common = {"sizes": sizes, "dtype": torch.bfloat16, "batch": 1}
        lists = [tensors(channels, **common) for channels in (8, 8, 16, 16)]
        operators.loss(*lists, [], [], 0, 1.0, None, 0.5, None, 2.0, None, 0.0, True, True)
        calls, pretended_gpu.launches = pretended_gpu.launches, []
        return calls, len(loss_kernel.device_caches[0][0])

    first, _ = call([(16, 24), (5, 7)])
    again, _ = call([(16, 24), (5, 7)])
    assert len(first) == 3
    for (grid, arguments), (grid_again, arguments_again) in zip(first, again, strict=True):
        assert grid == grid_again and len(arguments) == len(arguments_again)
        assert [type(a) for a in arguments] == [type(a) for a in arguments_again]
    for sizes in ([(20, 26), (5, 7)], [(48, 64), (13, 21)], [(1, 3), (1, 1)]):
        assert call(sizes)[1] == 1


def test_the_key_of_a_kernel_does_not_depend_on_which_is_launched_first():
    """Else another process would compile again what is in Triton's cache on disk."""
    mask_first = programs.output("triton_cache_keys.py", "weight_sums")
    loss_first = programs.output("triton_cache_keys.py", "loss_kernel")
    assert mask_first == loss_first and len(set(mask_first.split())) == 2
