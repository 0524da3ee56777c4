"""Bad arguments of weighted_kl: the error names argument, level and both shapes, before anything runs."""

import math

import pytest
import torch
from cases import random_masks
from kl_cases import arguments

import frs_kernels as frs
from frs_kernels.contract import MAX_LEVELS


def test_shapes_of_student_and_teacher_that_differ(refused):
    base = arguments()
    base["teacher"][2] = base["teacher"][2][..., :-1]
    assert refused(frs.weighted_kl, **base) == (
        "level 2: student [2, 12, 3, 4] and teacher [2, 12, 3, 3] differ; "
        "both are logits of the same distributions"
    )
    base = arguments()
    base["student"][0] = base["student"][0][:, :-1]
    message = refused(frs.weighted_kl, **base)
    assert message.startswith("level 0: student [2, 11, 9, 14] and teacher [2, 12, 9, 14] differ; ")


@pytest.mark.parametrize("name", ["teacher", "weight"])
def test_different_numbers_of_levels(refused, name):
    base = arguments()
    base[name].pop()
    assert refused(frs.weighted_kl, **base) == f"student has 4 levels, {name} has 3"


@pytest.mark.parametrize("name", ["teacher", "weight"])
def test_tensors_of_different_devices(refused, name):
    base = arguments()
    base[name][1] = base[name][1].to("meta")
    assert refused(frs.weighted_kl, **base) == f"level 1: {name} is on meta, student on cpu"


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_logits_of_images_need_a_location(refused, name):
    given = {"student": torch.zeros(4, 9, 1), "teacher": torch.zeros(4, 9, 1)}
    given[name] = torch.zeros(4, 9)
    assert refused(frs.weighted_kl, **given) == (
        f"level 0: {name} must be [B, C, H, W] or [B, C, L], got [4, 9]"
    )


@pytest.mark.parametrize("name", ["student", "teacher", "weight"])
@pytest.mark.parametrize("value", [3.0, "logits", [1, 2], [], [torch.zeros(2, 12, 4, 4).cfloat()]], ids=str)
def test_values_that_are_not_levels(refused, name, value):
    message = refused(frs.weighted_kl, **{**arguments(), name: value})
    assert name in message
    kinds = ("must be a tensor or a sequence of tensors, got", "is an empty sequence", "level 0: ")
    assert any(kind in message for kind in kinds)


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_integers_are_no_logits(refused, name):
    base = arguments()
    base[name][3] = base[name][3].long()
    assert refused(frs.weighted_kl, **base).startswith(f"level 3: {name} has dtype torch.int64, expected")


WEIGHTS = {
    "channels": [(2, 9, 13), (1, 9, 14), (2, 2, 9, 14), (9, 14), (2, 125), (2, 14, 9), (2, 12), ()],
    "locations": [(2, 11), (1, 12), (12,), (2, 12, 1), (2, 9, 14), ()],
}
EXPECTED = {"channels": "[B, H, W], one per location", "locations": "[B, C], one per channel"}


@pytest.mark.parametrize("over, shape", [(over, shape) for over in WEIGHTS for shape in WEIGHTS[over]])
def test_weights_of_another_shape(refused, over, shape):
    base = arguments(over=over)
    base["weight"][0] = torch.rand(shape)
    assert refused(frs.weighted_kl, **base, over=over) == (
        f"level 0: weight {list(shape)} must be {EXPECTED[over]} of student [2, 12, 9, 14]"
    )


@pytest.mark.parametrize("shape", [(2, 9, 14), (2, 1, 9, 14), (2, 126), (2, 1, 126)])
def test_weights_of_locations_have_four_possible_shapes(shape):
    student, teacher = torch.randn(2, 2, 12, 9, 14).unbind()
    assert frs.weighted_kl(student, teacher, torch.rand(shape), backend="eager").isfinite()


@pytest.mark.parametrize("over", ["channel", "bins", None])
def test_an_unknown_over(refused, over):
    message = refused(frs.weighted_kl, **arguments(), over=over)
    assert message == f"over {over!r} is none of ('channels', 'locations')"


@pytest.mark.parametrize("groups", [0, -2, 1.5, "4"])
def test_groups_that_are_no_count(refused, groups):
    message = refused(frs.weighted_kl, **arguments(), groups=groups)
    assert message == f"groups must be an integer >= 1, got {groups!r}"


def test_channels_that_are_no_multiple_of_groups(refused):
    base = arguments()
    for name in ("student", "teacher"):
        base[name][1] = base[name][1][:, :10]
    assert refused(frs.weighted_kl, **base, groups=4) == (
        "level 1: the 10 channels of student [2, 10, 5, 7] are no multiple of groups=4"
    )
    message = refused(frs.weighted_kl, **arguments(over="locations"), groups=4, over="locations")
    assert message == "groups divides channels: it goes with over='channels' only, got 4"


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, math.inf, math.nan])
def test_a_temperature_out_of_range(refused, temperature):
    message = refused(frs.weighted_kl, **arguments(), temperature=temperature)
    assert message == f"temperature must be > 0 and finite, got {temperature}"


@pytest.mark.parametrize(
    "temperature", ["4", None, torch.tensor(2.0)], ids=lambda value: type(value).__name__
)
def test_a_temperature_that_is_no_number(refused, temperature):
    message = refused(frs.weighted_kl, **arguments(), temperature=temperature)
    assert message == f"temperature must be a number, got {type(temperature).__name__}"


@pytest.mark.parametrize("normalizer", ["mean", "value", "batchmean", ""])
def test_an_unknown_normalizer(refused, normalizer):
    message = refused(frs.weighted_kl, **arguments(), normalizer=normalizer)
    assert message.startswith(f"normalizer {normalizer!r} is none of ('mask', ")


@pytest.mark.parametrize("name", ["scale", "normalizer"])
def test_scalars_that_are_no_numbers(refused, name):
    message = refused(frs.weighted_kl, **arguments(), **{name: torch.ones(2)})
    assert message == f"{name} must be a number or a 0-d tensor, got a tensor [2]"
    assert refused(frs.weighted_kl, **arguments(), **{name: [1.0]}) == f"{name} must be one value, got a list"
    learnable = torch.ones((), requires_grad=True)
    message = refused(frs.weighted_kl, **arguments(), **{name: learnable})
    assert message.startswith(f"{name} requires a gradient, which these losses do not compute")
    with torch.no_grad():
        assert frs.weighted_kl(**arguments(), **{name: learnable}, backend="eager").isfinite()


def test_reductions(refused):
    message = refused(frs.weighted_kl, **arguments(), reduction="batchmean")
    assert message == "reduction 'batchmean' is none of ('sum', 'mean', 'none')"
    levels = [torch.rand(2, 4, 3, 3), torch.rand(1, 4, 2, 2)]
    message = refused(frs.weighted_kl, levels, levels, reduction="none")
    assert message == "reduction='none' needs as many images in every level, student has [2, 1]"
    assert frs.weighted_kl(levels, levels, backend="eager") == 0


@pytest.mark.parametrize("over", ["channels", "locations"])
def test_a_weight_that_wants_a_gradient(refused, over):
    base = arguments(over=over)
    base["weight"][2].requires_grad_()
    message = refused(frs.weighted_kl, **base, over=over)
    assert message.startswith("level 2: weight requires a gradient, which these losses do not compute")
    with torch.no_grad():
        assert frs.weighted_kl(**base, over=over, backend="eager").isfinite()


def test_swapped_student_and_teacher(refused):
    base = arguments()
    base["teacher"][1].requires_grad_()
    message = refused(frs.weighted_kl, **base)
    assert message.startswith("teacher requires a gradient and student does not: ") and "swapped" in message
    with torch.no_grad():
        assert frs.weighted_kl(**base, backend="eager").isfinite()
    base["student"][0].requires_grad_()
    assert frs.weighted_kl(**base, backend="eager").requires_grad  # one level is enough


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64], ids=str)
def test_weights_may_be_bool_or_integer(dtype):
    base = arguments()
    base["weight"] = [(3 * w).to(dtype) for w in random_masks()]
    as_float = {**base, "weight": [w.float() for w in base["weight"]]}
    assert torch.equal(frs.weighted_kl(**base, backend="eager"), frs.weighted_kl(**as_float, backend="eager"))


def test_backends_that_cannot_run():
    with pytest.raises(ValueError, match="backend 'cuda' is none of"):
        frs.weighted_kl(**arguments(), backend="cuda")
    many = arguments(sizes=[(1, 2)] * (MAX_LEVELS + 1))
    with pytest.raises(RuntimeError, match=f"{MAX_LEVELS + 1} levels, the fused kernels take"):
        frs.weighted_kl(**many, backend="native")
    assert frs.weighted_kl(**many).isfinite()  # "auto" takes eager
