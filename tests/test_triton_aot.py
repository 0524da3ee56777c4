"""Every Triton kernel compiled ahead of time for the GPUs it is meant for: no spills, no narrow accesses."""

import pytest
from cases import INTERPRETED

pytest.importorskip("triton")
if INTERPRETED:
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from frs_kernels.backends.triton import aot  # noqa: E402


def ids(variant):
    return variant.name


def check(variant, target):
    kernel = aot.compiled(variant, aot.TARGETS[target])
    registers, spilled = aot.resources(kernel)
    assert 0 < registers and spilled == 0, f"{spilled} bytes spilled with {registers} registers"
    if variant.wide_bytes:
        found = aot.accesses(kernel)
        assert found.get(16, 0) * 16 == variant.wide_bytes, f"accesses by width: {found}"
        assert not found.keys() & {1, 2, 8}, f"accesses by width: {found}"


@pytest.mark.parametrize("variant", aot.variants(everything=False), ids=ids)
@pytest.mark.parametrize("target", aot.TARGETS)
def test_compiles_without_spills_and_with_wide_accesses(target, variant):
    check(variant, target)


@pytest.mark.slow
@pytest.mark.parametrize("variant", aot.variants(everything=True), ids=ids)
def test_every_variant_on_sm_90(variant):
    check(variant, "sm_90")


def test_an_unaligned_level_is_read_element_by_element():
    """The check above can fail: without the promise of alignment there are two-byte accesses."""
    (variant,) = (v for v in aot.variants(False) if "unaligned" in v.name)
    assert 2 in aot.accesses(aot.compiled(variant, aot.TARGETS["sm_90"]))
