"""Bad arguments: a clear error that names argument, level and both shapes, before anything runs."""

import pytest
import torch
from cases import random_masks, tensors

import frs_kernels as frs


def arguments():
    return {
        "student_feats": tensors(8, seed=1),
        "teacher_feats": tensors(8, seed=2),
        "student_logits": tensors(12, seed=4),
        "teacher_logits": tensors(12, seed=3),
    }


def test_features_of_different_sizes_are_refused(refused):
    base = arguments()
    base["teacher_feats"][2] = base["teacher_feats"][2][..., :-1]
    assert refused(frs.frs_loss, **base) == (
        "level 2: student_feats [2, 8, 3, 4] and teacher_feats [2, 8, 3, 3] differ; "
        "pass resize=True to FeatureAdapter or resize them first"
    )


def test_logits_of_different_classes_are_refused(refused):
    base = arguments()
    base["student_logits"][1] = base["student_logits"][1][:, :10]
    message = refused(frs.frs_loss, **base)
    assert "level 1: student_logits [2, 10, 5, 7] and teacher_logits [2, 12, 5, 7] differ" in message


def test_different_numbers_of_levels_are_refused(refused):
    base = arguments()
    base["teacher_logits"].pop()
    assert refused(frs.frs_loss, **base) == "student_feats has 4 levels, teacher_logits has 3"


def test_features_and_logits_of_different_locations_are_refused(refused):
    base = arguments()
    for name in ("teacher_logits", "student_logits"):
        base[name][0] = base[name][0].transpose(2, 3)
    message = refused(frs.frs_loss, **base)
    assert message == (
        "level 0: student_feats [2, 8, 9, 14] and teacher_logits [2, 12, 14, 9] "
        "do not agree in batch and locations"
    )


@pytest.mark.parametrize("shape", [(2, 9, 13), (1, 9, 14), (2, 2, 9, 14), (9, 14), (2, 125), (2, 14, 9), ()])
def test_masks_of_another_shape_are_refused(refused, shape):
    (student,), (teacher,) = tensors(8, sizes=[(9, 14)]), tensors(8, sizes=[(9, 14)])
    message = refused(frs.weighted_mse, student, teacher, torch.rand(shape))
    assert f"masks {list(shape)}" in message and "level 0" in message and "[2, 8, 9, 14]" in message


@pytest.mark.parametrize("shape", [(2, 9, 14), (2, 1, 9, 14), (2, 126), (2, 1, 126)])
def test_masks_have_four_possible_shapes(shape):
    (student,), (teacher,) = tensors(8, sizes=[(9, 14)]), tensors(8, sizes=[(9, 14)])
    assert frs.weighted_mse(student, teacher, torch.rand(shape)).isfinite()


def test_channel_weights_of_another_shape_is_refused(refused):
    student = tensors(8)
    message = refused(frs.weighted_mse, student, student, random_masks(), channel_weights=torch.rand(8))
    assert message == "level 0: channel_weights [8] must be [B, C] = [2, 8]"


@pytest.mark.parametrize("value", [torch.zeros(2, 3, 4, 4, dtype=torch.int64), [1, 2], "logits", 3.0])
def test_values_that_are_not_levels_are_refused(refused, value):
    assert "teacher_logits" in refused(frs.frs_mask, value)


def test_a_tensor_of_two_dimensions_is_refused(refused):
    assert "must be [B, C, H, W] or [B, C, L], got [4, 4]" in refused(frs.frs_mask, torch.zeros(4, 4))


def test_an_empty_sequence_of_levels_is_refused(refused):
    assert "empty sequence" in refused(frs.frs_mask, [])


def test_a_loss_without_any_term_is_refused(refused):
    base = arguments()
    assert "both None" in refused(frs.frs_loss, None, None, teacher_logits=base["teacher_logits"])
    assert "both None" in refused(frs.frs_loss, base["student_feats"], base["teacher_feats"])


def test_a_student_without_its_teacher_is_refused(refused):
    base = arguments()
    without = {**base, "teacher_feats": None}
    assert refused(frs.frs_loss, **without) == "student_feats is given without teacher_feats"
    without = {**base, "teacher_logits": None, "masks": random_masks()}
    assert refused(frs.frs_loss, **without) == "student_logits is given without teacher_logits"


def test_tensors_of_different_devices_are_refused(refused):
    base = arguments()
    base["teacher_feats"][1] = base["teacher_feats"][1].to("meta")
    assert refused(frs.frs_loss, **base) == "level 1: teacher_feats is on meta, student_feats on cpu"


@pytest.mark.parametrize("normalizer", ["mean", "value", ""])
def test_an_unknown_normalizer_is_refused(refused, normalizer):
    assert f"normalizer {normalizer!r}" in refused(frs.frs_loss, **arguments(), normalizer=normalizer)


def test_scalars_that_are_no_numbers_are_refused(refused):
    base = arguments()
    message = refused(frs.frs_loss, **base, feat_weight=torch.ones(2))
    assert "0-d tensor, got a tensor [2]" in message
    learnable = torch.ones((), requires_grad=True)
    assert "requires a gradient" in refused(frs.frs_loss, **base, head_weight=learnable)
    with torch.no_grad():
        assert frs.frs_loss(**base, head_weight=learnable).total.isfinite()
    assert "beta" in refused(
        frs.weighted_bce, base["student_logits"], base["teacher_logits"], random_masks(), beta=-1.0
    )


def test_several_masks_need_as_many_scales(refused):
    student, sets = tensors(8), [random_masks(), random_masks()]
    message = refused(frs.weighted_mse, student, student, mask_sets=sets, scale=[1.0, 2.0, 3.0])
    assert message == "2 mask_sets are given, but scale has 3 values"
    message = refused(frs.weighted_mse, student, student, mask_sets=sets, normalizer=["mask"])
    assert message == "2 mask_sets are given, but normalizer has 1 values"
    message = refused(frs.weighted_mse, student, student, sets[0], scale=[1.0])
    assert message == "scale must be one value, got a list; only mask_sets may have one value for each set"


def test_several_masks_are_refused_by_their_number(refused):
    student = tensors(8)
    message = refused(frs.weighted_mse, student, student, mask_sets=[random_masks(), random_masks()[:2]])
    assert message == "mask_sets[1]: student_feats has 4 levels, masks has 2"
    assert "mask_sets[1] must be a tensor" in refused(
        frs.weighted_mse, student, student, mask_sets=[random_masks(), 3]
    )


@pytest.mark.parametrize("mask_sets", [[], torch.ones(2, 3, 4)])
def test_mask_sets_are_a_sequence(refused, mask_sets):
    student = tensors(8)
    assert "must be a sequence" in refused(frs.weighted_mse, student, student, mask_sets=mask_sets)


@pytest.mark.parametrize("given", [{}, {"masks": random_masks(), "mask_sets": [random_masks()]}])
def test_masks_and_mask_sets_exclude_each_other(refused, given):
    student = tensors(8)
    message = refused(frs.weighted_mse, student, student, **given)
    assert message == "give either masks, or several of them as mask_sets"


def test_a_list_of_lists_is_no_mask_per_level(refused):
    """What several masks were before they had a keyword."""
    student = tensors(8)
    message = refused(frs.weighted_mse, student, student, [random_masks(), random_masks()])
    assert message == "masks must be a tensor or a sequence of tensors, got list"


def test_an_unknown_reduction_is_refused(refused):
    student = tensors(8)
    message = refused(frs.weighted_mse, student, student, random_masks(), reduction="batchmean")
    assert message == "reduction 'batchmean' is none of ('sum', 'mean', 'none')"


def test_one_value_per_image_needs_one_batch_size(refused):
    student = [torch.rand(2, 4, 3, 3), torch.rand(1, 4, 2, 2)]
    masks = [torch.rand(2, 3, 3), torch.rand(1, 2, 2)]
    message = refused(frs.weighted_mse, student, student, masks, reduction="none")
    assert message == "reduction='none' needs as many images in every level, student_feats has [2, 1]"
    assert frs.weighted_mse(student, student, masks) == 0


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64], ids=str)
def test_masks_may_be_bool_or_integer(target, dtype):
    student, teacher = (tensors(8, seed=seed, device=target.device) for seed in (1, 2))
    masks = [(3 * m).to(dtype) for m in random_masks(device=target.device)]
    as_float = [m.float() for m in masks]
    for backend in (target.backend, "eager"):
        expected = frs.weighted_mse(student, teacher, as_float, backend=backend)
        assert torch.equal(frs.weighted_mse(student, teacher, masks, backend=backend), expected)
        both = {"mask_sets": [masks, as_float], "backend": backend}
        torch.testing.assert_close(frs.weighted_mse(student, teacher, **both), 2 * expected)
        several = frs.frs_loss(student, teacher, masks=masks, backend=backend)
        assert torch.equal(several.total, expected)


@pytest.mark.parametrize("name", ["masks", "channel_weights"])
def test_a_constant_that_wants_a_gradient_is_refused(refused, name):
    student = tensors(8)
    given = {"masks": random_masks(), "channel_weights": [torch.rand(2, 8) for _ in student]}
    given[name][2].requires_grad_()
    message = refused(frs.weighted_mse, student, student, **given)
    assert message.startswith(f"level 2: {name} requires a gradient, which these losses do not compute")
    with torch.no_grad():
        assert frs.weighted_mse(student, student, **given) == 0
    if name == "masks":
        assert "masks requires a gradient" in refused(frs.frs_loss, student, student, masks=given["masks"])
        several = [random_masks(), given["masks"]]
        message = refused(frs.weighted_mse, student, student, mask_sets=several)
        assert message.startswith("mask_sets[1]: level 2: masks requires a gradient")


@pytest.mark.parametrize("term", ["feats", "logits"])
def test_swapped_student_and_teacher_are_refused(refused, term):
    base = arguments()
    base[f"teacher_{term}"][1].requires_grad_()
    message = refused(frs.frs_loss, **base)
    assert message.startswith(f"teacher_{term} requires a gradient and student_{term} does not: ")
    assert "swapped" in message
    with torch.no_grad():
        assert frs.frs_loss(**base).total.isfinite()
    base[f"student_{term}"][0].requires_grad_()
    assert frs.frs_loss(**base).total.requires_grad  # one level is enough: a frozen part may have none
