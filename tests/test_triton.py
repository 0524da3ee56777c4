"""The Triton kernels beyond what every backend must do.

Without a GPU they run in Triton's interpreter, which has to be asked for before Triton is imported:
`TRITON_INTERPRET=1 pytest` runs the tests of every backend on it, and what this file has for a `target`.
"""

import math

import programs
import pytest
import torch
from cases import INTERPRETED, LONG_SIZES, Target, compare, evaluate, random_masks, tensors
from loss_cases import WRT, arguments

import frs_kernels as frs
from frs_kernels import dispatch
from frs_kernels.backends import triton as backend
from frs_kernels.inputs import LossInputs

pytest.importorskip("triton", reason="needs triton")


def test_importing_the_package_imports_neither_the_kernels_nor_the_compiler():
    new = programs.output("new_modules.py", "frs_kernels").split()
    assert "frs_kernels.backends.triton" in new
    assert not {"frs_kernels.backends.triton.tiles", "torch._dynamo", "triton"}.intersection(new)


def test_without_triton_the_others_still_run():
    assert "not installed" in programs.output("why_not_triton.py", "missing")


def test_a_folder_named_triton_is_not_triton():
    assert "some/triton is something else" in programs.output("why_not_triton.py", "folder")


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on CPU tensors")
def test_cpu_tensors_are_refused_outside_the_interpreter():
    reason = dispatch.why_not("triton", LossInputs(teacher_logits=tensors(3)))
    assert "TRITON_INTERPRET=1" in reason


def test_all_sizes_share_one_compilation():
    """Triton specialises integers on 1, on divisibility by 16 and on 32 or 64 bits: encoded, on nothing."""
    from triton._C.libtriton import native_specialize_impl
    from triton.backends.compiler import BaseBackend

    from frs_kernels.backends.triton.tiles import encode

    values = encode([0, 1, 2, 16, 4200, 16800, 2**31, 2**40, 2**56])
    types, keys = native_specialize_impl(BaseBackend, values, False, True, True)
    assert set(types) == {"i64"} and set(keys) == {""}


def on_meta(shape, order="locations", dtype=torch.bfloat16):
    from frs_kernels.backends.triton.geometry import Geometry

    tensor = torch.empty(shape, dtype=dtype, device="meta")
    if order == "channels":
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return Geometry([tensor], [tensor], True)


def test_offsets_are_64_bit_where_32_do_not_reach():
    assert not on_meta((16, 720, 100, 168)).wide(8, 128)
    assert not on_meta((64, 720, 400, 672)).wide(8, 128), "a large batch is no reason: bases are 64-bit"
    assert on_meta((1, 16, 2**14, 2**15)).wide(8, 128), "8 channels span more than 2^31 elements"
    assert on_meta((1, 2**24, 16, 16), "channels").wide(64, 128)


def test_alignment_is_that_of_every_run():
    assert on_meta((2, 720, 100, 168)).all_aligned
    assert on_meta((2, 720, 50, 84)).all_aligned
    assert not on_meta((2, 720, 25, 42)).all_aligned, "1050 bfloat16 are no multiple of 16 bytes"
    assert not on_meta((2, 720, 13, 21)).all_aligned
    assert on_meta((2, 720, 13, 21), "channels").all_aligned
    assert not on_meta((2, 9 * 91, 13, 21), "channels").all_aligned
    assert on_meta((2, 6, 25, 42), dtype=torch.float64).all_aligned


def test_one_odd_level_of_one_location_does_not_cost_the_layout():
    from frs_kernels.backends.triton.geometry import Geometry
    from frs_kernels.backends.triton.tiles import CHANNEL, LOCATION, MIXED

    last = tensors(16, layout="rows", sizes=[(6, 8), (3, 4), (1, 1)])
    assert Geometry([], last, False).order == CHANNEL.value and Geometry([], last, False).all_aligned
    assert Geometry([], tensors(16), False).order == LOCATION.value
    mixed = [tensors(16, layout="channels_last")[0], tensors(16)[1]]
    assert Geometry([], mixed, False).order == MIXED.value


# What follows runs kernels: in the interpreter, or on a GPU.


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels launched so far."""
    from frs_kernels.backends.triton import operators, passes
    from frs_kernels.backends.triton.launch import launch

    names = []

    def recorded(kernel, *arguments, **options):
        names.append(kernel.__name__)
        return launch(kernel, *arguments, **options)

    for module in (operators, passes):
        monkeypatch.setattr(module, "launch", recorded)
    return names


def of_triton(target: Target):
    if target.backend != "triton":
        pytest.skip("about the Triton backend")


def test_every_pass_has_its_launches(target, launches):
    of_triton(target)
    base = arguments(device=target.device)
    evaluate(frs.frs_loss, base, WRT, backend="triton")
    assert launches == ["mask_kernel", "factors_kernel", "loss_kernel", "scale_kernel"]
    launches.clear()
    evaluate(frs.frs_loss, base, (), backend="triton")
    assert launches == ["single_kernel", "finish_kernel"]
    launches.clear()
    given = random_masks(device=target.device)
    evaluate(frs.frs_loss, base, WRT, masks=given, normalizer="batch", backend="triton")
    assert launches == ["factors_kernel", "loss_kernel", "scale_kernel"]


@pytest.mark.parametrize("wrt", [WRT, ()])
def test_levels_of_different_layouts(target, wrt):
    of_triton(target)
    one, other = (arguments(layout=layout, device=target.device) for layout in ("nchw", "channels_last"))
    mixed = {name: [one[name][0], *other[name][1:]] for name in one}
    compare(frs.frs_loss, target, mixed, wrt)
    other["student_feats"], other["teacher_feats"] = one["student_feats"], one["teacher_feats"]
    compare(frs.frs_loss, target, other, wrt)


@pytest.fixture
def afresh(monkeypatch):
    """Calls a function with one method of Geometry replaced, and nothing remembered from before."""
    from frs_kernels.backends.triton import geometry

    def call(name, replacement, function):
        with monkeypatch.context() as patch:
            patch.setattr(geometry.Geometry, name, replacement)
            patch.setattr(geometry, "_REMEMBERED", {})
            return function()

    return call


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_64_bit_offsets_give_the_same(target, layout, afresh):
    of_triton(target)
    base = arguments(33, 47, sizes=LONG_SIZES, layout=layout, device=target.device)
    expected, expected_grads = evaluate(frs.frs_loss, base, WRT, backend="triton")
    actual, grads = afresh(
        "wide", lambda *_: True, lambda: evaluate(frs.frs_loss, base, WRT, backend="triton")
    )
    assert all(map(torch.equal, actual, expected))
    assert all(map(torch.equal, grads, expected_grads))


def test_aligned_and_unaligned_code_agree(target, afresh):
    of_triton(target)
    base = arguments(16, 32, sizes=[(8, 16), (4, 8)], device=target.device)
    expected, expected_grads = evaluate(frs.frs_loss, base, WRT, backend="triton")
    actual, grads = afresh(
        "_flags", lambda *_: 0, lambda: evaluate(frs.frs_loss, base, WRT, backend="triton")
    )
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(grads, expected_grads)


def test_teachers_of_zero_batch_stride(target):
    """One teacher map for the whole batch, expanded rather than copied."""
    of_triton(target)
    base = arguments(device=target.device)
    for name in ("teacher_feats", "teacher_logits"):
        base[name] = [t[:1].expand_as(t) for t in base[name]]
    expected, _ = evaluate(frs.frs_loss, {k: [t.contiguous() for t in v] for k, v in base.items()}, ())
    actual = frs.frs_loss(**base, backend="triton")
    torch.testing.assert_close(tuple(actual), tuple(expected))


def test_a_change_of_the_scale_is_exact_in_float64(target):
    """Triton passes Python floats in float32; ours arrive whole."""
    of_triton(target)
    base = arguments(dtype=torch.float64, device=target.device)
    compare(frs.frs_loss, target, base, WRT, feat_weight=0.1, head_weight=1 / 3, normalizer=0.7)


def test_more_channels_than_one_product_holds(target):
    """A product of the head term is closed before it can overflow: 600 factors of 2 here."""
    of_triton(target)
    zeros = [torch.zeros(1, 600 * 8, 2, 3, device=target.device)]
    loss = frs.frs_loss(None, None, zeros, zeros, backend="triton").total
    torch.testing.assert_close(loss.item(), 600 * 8 * math.log(2), rtol=1e-6, atol=0)


def test_the_backend_is_available(target):
    of_triton(target)
    assert backend.unavailable() is None
    assert "triton" in frs.available_backends()
