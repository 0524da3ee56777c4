"""The canonical form of a call's arguments: what is copied, what is not, and in which order."""

import pytest
import torch

import frs_kernels as frs
from frs_kernels.autograd import loss_arguments
from frs_kernels.contract import LOSS_ARGUMENTS, NORMALIZERS
from frs_kernels.inputs import LossInputs


def inputs(**changes) -> LossInputs:
    lists = ("student_feats", "teacher_feats", "student_logits", "teacher_logits")
    given = {name: [torch.rand(2, 3, 4, 5), torch.rand(2, 3, 2, 3)] for name in lists}
    given |= {"masks": [torch.rand(2, 4, 5), torch.rand(2, 2, 3)], "channel_weights": [torch.rand(2, 3)] * 2}
    return LossInputs(**{**given, **changes})


def tensors_of(inputs: LossInputs) -> list[torch.Tensor]:
    return inputs.tensors + inputs.masks + inputs.channel_weights


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_what_the_kernels_can_read_is_not_copied(memory_format):
    levels = [torch.rand(2, 3, 4, 5).to(memory_format=memory_format) for _ in range(2)]
    given = inputs(student_feats=levels, teacher_feats=levels)
    given.student_logits[0].requires_grad_()
    assert all(a is b for a, b in zip(tensors_of(given), tensors_of(given.canonical()), strict=True))


def test_scalars_are_kept():
    scalars = {"normalizer": "batch", "feat_scale": 2.0, "head_scale": 3.0, "beta": 4.0, "per_image": True}
    canonical = inputs(**scalars).canonical()
    assert {name: getattr(canonical, name) for name in scalars} == scalars


def test_one_shape_with_other_strides():
    """The layout belongs to the tensor, not to its shape: a call may follow one of another layout."""
    level = torch.rand(2, 3, 4, 5)
    for teacher in (
        level,
        level.contiguous(memory_format=torch.channels_last),
        level.mT.contiguous().mT,
        level,
    ):
        canonical = LossInputs(student_feats=[level], teacher_feats=[teacher]).canonical()
        (student,), (read,) = canonical.student_feats, canonical.teacher_feats
        assert student is level and torch.equal(read, teacher) and read.is_contiguous()


def test_a_student_of_an_odd_layout_is_copied_with_its_teacher():
    student, teacher = (torch.rand(2, 3, 5, 4).mT for _ in range(2))
    canonical = LossInputs(student_feats=[student], teacher_feats=[teacher]).canonical()
    (student_copy,), (teacher_copy,) = canonical.student_feats, canonical.teacher_feats
    assert student_copy.is_contiguous() and torch.equal(student_copy, student)
    assert teacher_copy.is_contiguous() and torch.equal(teacher_copy, teacher)


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(2, 4, 5, dtype=torch.bool),
        torch.ones(2, 4, 5, dtype=torch.float16),
        torch.ones(2, 5, 4).mT,
        torch.ones(2, 4, 5, requires_grad=True),
    ],
    ids=["bool", "float16", "transposed", "requires_grad"],
)
def test_masks_are_contiguous_constants_of_the_accumulation_dtype(mask):
    for dtype, accumulation in ((torch.float16, torch.float32), (torch.float64, torch.float64)):
        levels = [torch.rand(2, 3, 4, 5).to(dtype)]
        given = LossInputs(student_feats=levels, teacher_feats=levels, masks=[mask])
        (canonical,) = given.canonical().masks
        assert canonical.dtype == accumulation and canonical.is_contiguous() and not canonical.requires_grad
        assert torch.equal(canonical, mask.detach().to(accumulation))


def test_dtypes_of_one_list_become_one():
    half, single, double = (
        torch.rand(2, 3, 4, 5).to(d) for d in (torch.float16, torch.float32, torch.float64)
    )
    mixed = LossInputs(student_feats=[half, single], teacher_feats=[half, half]).canonical()
    assert [t.dtype for t in mixed.tensors] == [torch.float32] * 2 + [torch.float16] * 2
    mixed = LossInputs(student_feats=[half, single], teacher_feats=[half, double]).canonical()
    assert [t.dtype for t in mixed.tensors] == [torch.float64] * 4
    alike = LossInputs(student_feats=[half], teacher_feats=[single]).canonical()
    assert alike.student_feats[0] is half and alike.teacher_feats[0] is single


def test_arguments_have_the_order_of_the_schema():
    given = inputs(normalizer=5.0, feat_scale=6.0, head_scale=7.0, beta=8.0, per_image=True)
    named = dict(zip(LOSS_ARGUMENTS, loss_arguments(given, True, False), strict=True))
    for name in ("student_feats", "teacher_feats", "student_logits", "teacher_logits", "masks"):
        assert named[name] is getattr(given, name)
    assert named["channel_weights"] is given.channel_weights
    assert NORMALIZERS[named["normalizer"]] == "value"
    assert [named[name] for name in ("normalizer_value", "feat_scale", "head_scale")] == [5, 6, 7]
    assert [named[name] for name in ("beta", "feat_grad", "head_grad", "per_image")] == [8, True, False, True]
    on_device = {
        name: torch.tensor(value) for name, value in (("normalizer", 5), ("feat_scale", 6), ("head_scale", 7))
    }
    named = dict(zip(LOSS_ARGUMENTS, loss_arguments(inputs(**on_device), True, True), strict=True))
    scalars = [named[f"{name}_tensor"] for name in on_device]
    assert [scalar.item() for scalar in scalars] == [5, 6, 7] and {t.dtype for t in scalars} == {
        torch.float32
    }


def test_a_misfit_after_a_call_that_fits(refused, target):
    """Nothing of an earlier call makes a later one pass."""
    level = torch.rand(2, 3, 4, 5, device=target.device)
    good = {"student_feats": [level], "teacher_feats": [level], "masks": [level[:, 0]]}
    options = {"backend": target.backend}
    assert frs.frs_loss(**good, **options).total == 0
    assert "differ" in refused(frs.frs_loss, **{**good, "teacher_feats": [level[..., :4]]}, **options)
    assert "dtype" in refused(frs.frs_loss, **{**good, "teacher_feats": [level.int()]}, **options)
    assert "is on meta" in refused(frs.frs_loss, **{**good, "teacher_feats": [level.to("meta")]}, **options)
    swapped = {**good, "teacher_feats": [level.clone().requires_grad_()]}
    assert "swapped" in refused(frs.frs_loss, **swapped, **options)
    assert frs.frs_loss(**good, **options).total == 0
