"""The Triton backend: what is special about it, beyond the tests that every backend has to pass.

Without a GPU the kernels run in Triton's interpreter, which has to be enabled before Triton is imported:
`TRITON_INTERPRET=1 pytest` runs on it the tests of all backends and those in this file that have a `target`.
"""

import math

import programs
import pytest
import torch
from cases import DTYPES, INTERPRETED, LONG_SIZES, Target, compare, evaluate, fields, random_masks, tensors
from hypothesis import given
from hypothesis import strategies as st
from loss_cases import WRT, arguments

import frs_kernels as frs
from frs_kernels import dispatch
from frs_kernels.backends import triton as backend
from frs_kernels.inputs import LossInputs

pytest.importorskip("triton", reason="needs triton")


def test_without_triton_the_others_still_run():
    assert "not installed" in programs.output("why_not_triton.py", "missing")


def test_a_folder_named_triton_is_not_triton():
    assert "some/triton is something else" in programs.output("why_not_triton.py", "folder")


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on CPU tensors")
def test_cpu_tensors_are_refused_outside_the_interpreter():
    reason = dispatch.why_not("triton", LossInputs(teacher_logits=tensors(3)))
    assert "TRITON_INTERPRET=1" in reason


def test_all_sizes_share_one_compilation():
    """Triton specialises integers on 1, divisibility by 16 and fitting 32 bits, but not encoded ones."""
    from triton._C.libtriton import native_specialize_impl
    from triton.backends.compiler import BaseBackend

    from frs_kernels.backends.triton.level_table import encode

    values = encode([0, 1, 2, 16, 4200, 16800, 2**31, 2**40, 2**56])
    types, keys = native_specialize_impl(BaseBackend, values, False, True, True)
    assert set(types) == {"i64"} and set(keys) == {""}


def on_meta(shape, layout="location_major", dtype=torch.bfloat16):
    from frs_kernels.backends.triton.geometry import Geometry

    tensor = torch.empty(shape, dtype=dtype, device="meta")
    if layout == "channel_major":
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return Geometry([tensor], [tensor], True)


def test_offsets_are_64_bit_where_32_do_not_reach():
    assert not on_meta((16, 720, 100, 168)).needs_int64_offsets(8, 128)
    assert not on_meta((64, 720, 400, 672)).needs_int64_offsets(8, 128)  # images are addressed in 64 bits
    assert on_meta((1, 16, 2**14, 2**15)).needs_int64_offsets(8, 128)  # 8 channels span over 2^31 elements
    assert on_meta((1, 2**24, 16, 16), "channel_major").needs_int64_offsets(64, 128)


def test_a_level_is_aligned_if_each_contiguous_run_is():
    assert on_meta((2, 720, 100, 168)).all_aligned
    assert on_meta((2, 720, 50, 84)).all_aligned
    assert not on_meta((2, 720, 25, 42)).all_aligned, "1050 bfloat16 are not a multiple of 16 bytes"
    assert not on_meta((2, 720, 13, 21)).all_aligned
    assert on_meta((2, 720, 13, 21), "channel_major").all_aligned
    assert not on_meta((2, 9 * 91, 13, 21), "channel_major").all_aligned
    assert on_meta((2, 6, 25, 42), dtype=torch.float64).all_aligned


def test_a_level_of_one_location_has_the_layout_of_the_others():
    from frs_kernels.backends.triton.geometry import Geometry
    from frs_kernels.backends.triton.tiles import CHANNEL_MAJOR, LOCATION_MAJOR, MIXED_LAYOUTS

    last = tensors(16, layout="rows", sizes=[(6, 8), (3, 4), (1, 1)])
    assert Geometry([], last, False).layout == CHANNEL_MAJOR.value and Geometry([], last, False).all_aligned
    assert Geometry([], tensors(16), False).layout == LOCATION_MAJOR.value
    mixed = [tensors(16, layout="channels_last")[0], tensors(16)[1]]
    assert Geometry([], mixed, False).layout == MIXED_LAYOUTS.value


# The tests below run kernels, in the interpreter or on a GPU.


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels launched so far."""
    from frs_kernels.backends.triton import launches
    from frs_kernels.backends.triton.launcher import launch

    names = []

    def recorded(kernel, *arguments, **options):
        names.append(kernel.__name__)
        return launch(kernel, *arguments, **options)

    monkeypatch.setattr(launches, "launch", recorded)
    return names


def skip_other_backends(target: Target):
    if target.backend != "triton":
        pytest.skip("tests the Triton backend")


def test_launches_of_each_pass(target, launches):
    skip_other_backends(target)
    base = arguments(device=target.device)
    evaluate(frs.frs_loss, base, WRT, backend="triton")
    backward = ["scale_kernel", "scale_kernel"]  # of one term and of the other
    assert launches == ["mask_kernel", "factors_kernel", "loss_kernel", *backward]
    launches.clear()
    evaluate(frs.frs_loss, base, (), backend="triton")
    assert launches == ["single_kernel", "finish_kernel"]
    launches.clear()
    given = random_masks(device=target.device)
    evaluate(frs.frs_loss, base, WRT, masks=given, normalizer="mask_all_levels", backend="triton")
    assert launches == ["mask_sums_kernel", "factors_kernel", "loss_kernel", *backward]
    launches.clear()
    evaluate(frs.frs_loss, base, WRT, masks=given, normalizer="batch", backend="triton")
    assert launches == ["factors_kernel", "loss_kernel", *backward]
    launches.clear()
    head = {name: base[name] for name in ("student_logits", "teacher_logits")}
    options = {"masks": given, "normalizer": "batch", "reduction": "none", "backend": "triton"}
    evaluate(frs.weighted_bce, head, ("student_logits",), **options)
    assert launches == ["factors_kernel", "loss_kernel", "image_losses_kernel", "scale_kernel"]


@pytest.mark.parametrize("wrt", [WRT, ()])
def test_levels_of_different_layouts(target, wrt):
    skip_other_backends(target)
    one, other = (arguments(layout=layout, device=target.device) for layout in ("nchw", "channels_last"))
    mixed = {name: [one[name][0], *other[name][1:]] for name in one}
    compare(frs.frs_loss, target, mixed, wrt)
    other["student_feats"], other["teacher_feats"] = one["student_feats"], one["teacher_feats"]
    compare(frs.frs_loss, target, other, wrt)


@pytest.fixture
def with_geometry(monkeypatch):
    """Calls a function with one method of Geometry replaced and an empty cache of geometries."""
    from frs_kernels.backends.triton import geometry

    def call(name, replacement, function):
        with monkeypatch.context() as patch:
            patch.setattr(geometry.Geometry, name, replacement)
            patch.setattr(geometry, "_CACHE", {})
            return function()

    return call


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_64_bit_offsets_give_the_same_bits(target, layout, with_geometry):
    skip_other_backends(target)
    base = arguments(33, 47, sizes=LONG_SIZES, layout=layout, device=target.device)
    expected, expected_grads = evaluate(frs.frs_loss, base, WRT, backend="triton")
    actual, grads = with_geometry(
        "needs_int64_offsets", lambda *_: True, lambda: evaluate(frs.frs_loss, base, WRT, backend="triton")
    )
    assert all(map(torch.equal, actual, expected))
    assert all(map(torch.equal, grads, expected_grads))


def test_aligned_and_unaligned_code_agree(target, with_geometry):
    skip_other_backends(target)
    base = arguments(16, 32, sizes=[(8, 16), (4, 8)], device=target.device)
    expected, expected_grads = evaluate(frs.frs_loss, base, WRT, backend="triton")
    actual, grads = with_geometry(
        "_flags", lambda *_: 0, lambda: evaluate(frs.frs_loss, base, WRT, backend="triton")
    )
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(grads, expected_grads)


def test_teachers_of_zero_batch_stride(target):
    """One teacher image for the whole batch, expanded and not copied."""
    skip_other_backends(target)
    base = arguments(device=target.device)
    for name in ("teacher_feats", "teacher_logits"):
        base[name] = [t[:1].expand_as(t) for t in base[name]]
    copies = {name: [t.contiguous() for t in levels] for name, levels in base.items()}
    expected, _ = evaluate(frs.frs_loss, copies, (), backend="eager")
    actual = frs.frs_loss(**base, backend="triton")
    torch.testing.assert_close(fields(actual), expected)


def test_scales_are_exact_in_float64(target):
    """Triton passes Python floats as float32; ours are passed as two."""
    skip_other_backends(target)
    base = arguments(dtype=torch.float64, device=target.device)
    compare(frs.frs_loss, target, base, WRT, feat_weight=0.1, head_weight=1 / 3, normalizer=0.7)


def test_more_channels_than_one_product_holds(target):
    """A product of the head term is closed before it can overflow: 600 factors of 2 here."""
    skip_other_backends(target)
    zeros = [torch.zeros(1, 600 * 8, 2, 3, device=target.device)]
    logits = {"student_logits": zeros, "teacher_logits": zeros}
    loss = frs.frs_loss(None, None, **logits, backend="triton").total
    torch.testing.assert_close(loss.item(), 600 * 8 * math.log(2), rtol=1e-6, atol=0)


def test_tile_bounds_of_both_terms_follow_each_other():
    from frs_kernels.backends.triton.level_table import encode
    from frs_kernels.backends.triton.plan import tile_bounds_of_terms

    feats, logits = (0, 4, 4, 6), (0, 3, 5, 6)
    assert tile_bounds_of_terms(feats, logits) == encode([0, 4, 4, 6, 9, 11, 12])
    assert tile_bounds_of_terms(None, logits) == encode([0, 0, 0, 0, 3, 5, 6])
    assert tile_bounds_of_terms(feats, None) == encode([0, 4, 4, 6, 6, 6, 6])


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_levels_of_several_tiles_add_up_whatever_finishes_last(target, layout):
    """Levels with and without tiles, whose images have many of them, in float64."""
    skip_other_backends(target)
    sizes = [(20, 25), (0, 5), (12, 40), (1, 1), (0, 5)]
    options = {"sizes": sizes, "dtype": torch.float64, "layout": layout, "device": target.device}
    base = arguments(**options)
    for wrt in (WRT, ()):
        (feature_levels, head_levels, feature, head, total), _ = compare(frs.frs_loss, target, base, wrt)
        for levels, loss in ((feature_levels, feature), (head_levels, head)):
            assert ((levels != 0) == torch.tensor([1, 0, 1, 1, 0], device=target.device)).all()
            torch.testing.assert_close(levels.sum(), loss.detach(), rtol=1e-14, atol=0)
        assert total == feature + head


@given(
    sizes=st.lists(st.tuples(st.integers(0, 70), st.integers(1, 70)), min_size=1, max_size=4),
    channels=st.integers(1, 3), batch=st.integers(0, 5), dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["nchw", "channels_last"]), expanded=st.booleans(),
)  # fmt: skip
def test_scale_takes_images_of_any_size(target, sizes, channels, batch, dtype, layout, expanded):
    """Whole blocks, rests of blocks and unaligned images; a factor of 1 beside others."""
    skip_other_backends(target)
    accumulation = torch.promote_types(dtype, torch.float32)
    factors = torch.tensor([2.0, 1.0, 0.25, -4.0, 0.0][:batch], dtype=accumulation, device=target.device)
    factors = factors[:1].expand(batch) if expanded else factors
    pending = torch.tensor([1.0, 0.5, 2.0, 1.0][: len(sizes)], dtype=accumulation, device=target.device)
    options = {"sizes": sizes, "batch": batch, "dtype": dtype, "layout": layout, "device": target.device}
    grads = tensors(channels, **options)
    # Powers of two: the products are exact in every dtype that does not underflow here.
    expected = [g * (factors * p).to(dtype)[:, None, None, None] for g, p in zip(grads, pending, strict=True)]
    backend.namespace().scale_(grads, factors, pending)
    torch.testing.assert_close(grads, expected, rtol=0, atol=2**-24 if dtype == torch.float16 else 0)


def test_what_does_not_fit_is_refused_per_image(target):
    skip_other_backends(target)
    grads, pending = tensors(5, batch=3, device=target.device), torch.ones(4, device=target.device)
    with pytest.raises(RuntimeError, match="grads of .3, 3, 3, 3. images, grad_output of 2"):
        backend.namespace().scale_(grads, torch.ones(2, device=target.device), pending)


def test_the_backend_is_available(target):
    skip_other_backends(target)
    assert backend.unavailable() is None
    assert "triton" in frs.available_backends()
