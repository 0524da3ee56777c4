"""split_levels, memory layouts, and the copies that follow from them."""

import pytest
import torch
from cases import LAYOUTS, SIZES, tensors

import frs_kernels as frs
from frs_kernels.layouts import grad_like, in_layout, layout, location_stride


@pytest.mark.parametrize("anchors", [1, 3])
def test_split_levels_are_views_in_the_order_of_torchvision(anchors):
    classes, batch = 4, 2
    per_level = [torch.randn(batch, anchors * classes, h, w) for h, w in SIZES]
    anchor_major = [
        level.view(batch, anchors, classes, h, w).permute(0, 3, 4, 1, 2).reshape(batch, -1, classes)
        for level, (h, w) in zip(per_level, SIZES, strict=True)
    ]
    flat = torch.cat(anchor_major, dim=1)
    views = frs.split_levels(flat, SIZES, anchors)
    for view, level in zip(views, per_level, strict=True):
        assert torch.equal(view, level)
        assert view.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
        assert layout(view) is not None


def test_split_levels_carry_the_gradient():
    flat = torch.randn(2, 9 * 14 + 5 * 7, 6, requires_grad=True)
    views = frs.split_levels(flat, SIZES[:2], 1)
    teacher = [v.detach() + 1 for v in views]
    frs.frs_loss(None, None, student_logits=views, teacher_logits=teacher).total.backward()
    assert flat.grad.shape == flat.shape and (flat.grad != 0).any()


def test_split_levels_checks_the_sizes(refused):
    message = refused(frs.split_levels, torch.zeros(2, 100, 4), [(9, 11)], 1)
    assert "[2, 100, 4] has 100 anchors" in message and "need 99" in message
    assert "[B, sum(H*W*A), K]" in refused(frs.split_levels, torch.zeros(2, 100), [(10, 10)], 1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_that_need_no_copy(name):
    named = {"channels_last": "channel_major", "rows": "channel_major", "odd": None}
    expected = named.get(name, "location_major")
    for level in tensors(8, sizes=SIZES[:3], layout=name):
        assert layout(level) == expected
        for wanted in ("location_major", "channel_major"):
            copy = in_layout(level, wanted)
            assert torch.equal(copy, level) and layout(copy) == wanted
            assert (copy is level) == (wanted == expected)


def test_a_crop_has_no_single_location_stride():
    (level,) = tensors(8, sizes=[(9, 14)])
    for crop in (level[..., 1:-2, 2:-3], level[..., 2:-3], level[..., ::2, :], level[..., ::2]):
        assert location_stride(crop) in (None, 2) and layout(crop) is None
    assert layout(level[..., 1:-2, :]) == layout(level[:, 2:5]) == "location_major"


@pytest.mark.parametrize(
    "shape", [(2, 1, 4, 5), (2, 6, 1, 1), (1, 1, 1, 1), (0, 3, 2, 2), (2, 0, 3, 3), (2, 3, 0)]
)
def test_degenerate_shapes_have_a_layout(shape):
    tensor = torch.zeros(shape)
    assert layout(tensor) == "location_major"
    assert layout(tensor.movedim(1, -1).contiguous().movedim(-1, 1)) is not None


@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_are_dense_in_the_layout_of_the_student(name):
    for level in tensors(8, sizes=SIZES[:3], layout=name):
        grad = grad_like(level)
        assert grad.shape == level.shape and grad.dtype == level.dtype
        assert layout(grad) == (layout(level) or "location_major")
        assert (
            sum((size - 1) * step for size, step in zip(grad.shape, grad.stride(), strict=True))
            == grad.numel() - 1
        )


def test_explain_backend_names_the_copies():
    feats = tensors(8, layout="odd")
    mixed = tensors(8, layout="channels_last")
    logits = tensors(12)
    report = frs.explain_backend(feats, feats, teacher_logits=logits)
    if report.chosen == "eager":
        pytest.skip("eager copies nothing by itself")
    assert any("level 0: feats with strides" in note for note in report.copies)
    report = frs.explain_backend(tensors(8), mixed, teacher_logits=logits)
    assert any("level 1: teacher_feats are copied to the student's layout" in note for note in report.copies)
    assert not frs.explain_backend(mixed, mixed, teacher_logits=logits).copies
