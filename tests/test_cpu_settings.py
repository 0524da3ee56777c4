"""The settings of the CPU kernels: rows of the table, ranges, and that no setting changes a result."""

import pytest
import torch
from cpu_calls import bits, make_call, run
from hypothesis import given
from hypothesis import strategies as st

import frs_kernels
from frs_kernels import cpu_settings, info
from frs_kernels.library import load_native

host = pytest.importorskip("frs_kernels._host", reason="_host is not built")
pytestmark = pytest.mark.skipif(load_native("cpu") is not None, reason=str(load_native("cpu")))

AMD, INTEL, KIB = "AuthenticAMD", "GenuineIntel", 1 << 10
ROWS = {  # by vendor, family, model, L1 and L2 in KiB
    "AMD Zen 3": [(AMD, 25, 0x01, 32, 512), (AMD, 25, 0x21, 32, 512), (AMD, 25, 0x50, 32, 512)],
    "AMD Zen 4": [(AMD, 25, 0x11, 32, 1024), (AMD, 25, 0x61, 32, 1024), (AMD, 25, 0xA0, 32, 1024)],
    "AMD Zen 5": [(AMD, 26, 0x02, 48, 1024), (AMD, 26, 0x44, 48, 1024)],
    "default": [(INTEL, 6, 207, 48, 2048), (AMD, 23, 0x31, 32, 512), ("", 0, 0, 0, 0)],
}


def row_of(vendor, family, model, l1, l2):
    return host.settings_of(vendor, family, model, l1 * KIB, l2 * KIB)


@pytest.mark.parametrize(("name", "processor"), [(name, p) for name, known in ROWS.items() for p in known])
def test_a_processor_has_its_row_and_allowed_values(name, processor):
    found, values = row_of(*processor)
    assert found == name
    known = cpu_settings.settings()
    assert values.keys() == known.keys()
    for setting, value in values.items():
        with cpu_settings.changed(**{setting: value}):
            assert cpu_settings.settings()[setting].value == value


@given(st.sampled_from([0, 16, 24, 32, 48, 64, 128]), st.sampled_from([0, 128, 256, 512, 1024, 2048, 4096]))
def test_the_default_row_fits_the_caches(l1, l2):
    _, values = row_of(INTEL, 6, 1, l1, l2)
    longest_prefetch = max(values["prefetch_loss"], values["prefetch_single"])
    assert 2 * 4 * longest_prefetch <= (l1 or 32) * KIB // 4
    assert 16 * values["mask_row"] <= (l2 or 256) * KIB // 2
    assert 8 * values["loss_row"] <= (l2 or 256) * KIB // 2


def test_a_setting_has_a_range_and_a_name():
    for name, setting in cpu_settings.settings().items():
        assert setting.meaning
        for value in (setting.least - 1, setting.largest + 1, 2**40):
            with pytest.raises(ValueError, match=f"setting {name} must be from {setting.least} to"):
                with cpu_settings.changed(**{name: value}):
                    pytest.fail("changed")
        assert cpu_settings.settings()[name] == setting
    with pytest.raises(ValueError, match="a multiple of 1024, got 1500"):
        with cpu_settings.changed(loss_row=1500):
            pytest.fail("changed")
    with pytest.raises(ValueError, match="setting 'row' is none of .*'loss_row'"):
        with cpu_settings.changed(mask_row=256, row=1):
            pytest.fail("changed")


def test_settings_are_restored_after_an_error():
    before = cpu_settings.settings()
    with pytest.raises(KeyError):
        with cpu_settings.changed(mask_row=512, prefetch_rows=0):
            assert cpu_settings.settings()["mask_row"].value == 512
            raise KeyError
    assert cpu_settings.settings() == before


def results(call):
    """Results of the mask pass, the loss pass and the single pass."""
    with torch.no_grad():
        single = frs_kernels.frs_loss(**call, backend="native")
        masks = frs_kernels.frs_mask(call["teacher_logits"], backend="native")
    return bits([*run(call), single.feature, single.head, *masks])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_setting_changes_a_result(dtype, layout):
    call = make_call(dtype, layout, batch=1, sizes=[(70, 64), (9, 8)], logits=65)
    known = cpu_settings.settings()
    expected = results(call)
    for name in known.keys() - {"vector_bytes"}:  # sums in other lanes are rounded in another order
        for value in (known[name].least, known[name].largest):
            others = {"non_temporal_from": 0} | {name: value}
            with cpu_settings.changed(**others):
                found = results(call)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), (name, value)


def test_the_width_of_vectors_picks_the_instruction_set():
    names = ("default", "avx2", "avx512")
    with cpu_settings.changed(vector_bytes=64):
        best = cpu_settings.instruction_set()  # of this machine, or what ATEN_CPU_CAPABILITY limits it to
    for name, width in zip(names, (16, 32, 64), strict=True):
        with cpu_settings.changed(vector_bytes=width):
            assert cpu_settings.instruction_set() == min(name, best, key=names.index)


def test_info_shows_the_row_and_the_settings():
    report = info.report()
    assert f"settings of {cpu_settings.processor()}" in report
    with cpu_settings.changed(mask_row=768):
        assert any(line.split()[:2] == ["mask_row", "768"] for line in info.report().splitlines())
