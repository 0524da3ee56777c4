"""The operator `loss` itself: what every level and every image contributes, against a formula in float64."""

from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, LONG_SIZES, SIZES, random_masks, tensors
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_as_accurate
from torch import Tensor

from frs_kernels import dispatch
from frs_kernels.contract import LOSS_ARGUMENTS, MAX_LEVELS, NORMALIZER_EPSILON, NORMALIZERS

LAYOUTS = ("nchw", "channels_last", "flat", "split", "rows")  # those that the operator reads
MODES = ("mask_given", "mask_first", "single_pass")
TERMS = ("both", "features", "logits")


@dataclass
class Call:
    """A call of the operator: lists over levels, and numbers."""

    feats: list[list[Tensor]]  # student, teacher
    logits: list[list[Tensor]]
    mode: str
    masks: list[Tensor] = field(default_factory=list)
    channel_weights: list[Tensor] = field(default_factory=list)
    normalizer: str = "mask"
    beta: float = 0.0
    scales: tuple[float, float] = (0.5, 3.0)
    value: float = 2.5

    def run(self, target, per_image: bool) -> tuple:
        """losses, level_losses, pending, feat_grads, logit_grads."""
        grads = self.mode == "mask_first"
        tensor = torch.tensor(2.0, dtype=self.dtype, device=target.device)
        values = {
            "student_feats": self.feats[0], "teacher_feats": self.feats[1],
            "student_logits": self.logits[0], "teacher_logits": self.logits[1],
            "masks": self.masks, "channel_weights": self.channel_weights,
            "normalizer": NORMALIZERS.index(self.normalizer),
            "normalizer_value": self.value, "normalizer_tensor": None,
            "feat_scale": self.scales[0] / 2, "feat_scale_tensor": tensor,
            "head_scale": self.scales[1], "head_scale_tensor": None, "beta": self.beta,
            "feat_grad": grads and bool(self.feats[0]), "head_grad": grads and bool(self.logits[0]),
            "per_image": per_image,
        }  # fmt: skip
        name = "loss" if self.feats[0] and self.logits[0] else "imitation" if self.feats[0] else "head"
        operator = getattr(dispatch.load(target.backend).namespace(), name)
        return operator(*(values[name] for name in LOSS_ARGUMENTS))

    @property
    def dtype(self) -> torch.dtype:
        """The accumulation dtype."""
        student = (self.feats[0] or self.logits[0])[0]
        return torch.promote_types(student.dtype, torch.float32)


def make_call(
    target, *, mode, terms="both", batch=2, sizes=SIZES, dtype=torch.float32, teacher_dtype=None,
    layouts=("nchw", "nchw"), channels=(8, 12), weighted=False, **numbers,
) -> Call:  # fmt: skip
    common = {"batch": batch, "sizes": sizes, "device": target.device}

    def pair(term, spread, seed):
        options = {"layout": layouts[term], "spread": spread, **common}
        return [
            tensors(channels[term], dtype=dtype, seed=seed, **options),
            tensors(channels[term], dtype=teacher_dtype or dtype, seed=seed + 1, **options),
        ]

    feats, logits = pair(0, 1.0, 1), pair(1, 3.0, 3)
    if terms == "features":
        logits = [[], [] if mode == "mask_given" else logits[1]]
    accumulation = torch.promote_types(dtype, torch.float32)
    masks = random_masks(dtype=accumulation, **common) if mode == "mask_given" else []
    weights = random_masks(dtype=accumulation, **(common | {"sizes": [(1, channels[0])] * len(sizes)}))
    weights = [w.flatten(1) for w in weights] if weighted and terms != "logits" else []
    return Call([[], []] if terms == "logits" else feats, logits, mode, masks, weights, **numbers)


def formula(call: Call, dtype: torch.dtype) -> Tensor:
    """What every image of every level contributes to both terms, [2, levels, B], computed in a dtype."""
    levels = call.masks or [t.to(dtype).amax(dim=1).sigmoid() for t in call.logits[1]]
    masks = [mask.to(dtype).flatten(1) for mask in levels]
    return torch.stack([formula_of_level(call, level, masks, dtype) for level in range(len(masks))], dim=1)


def formula_of_level(call: Call, level: int, masks: list[Tensor], dtype: torch.dtype) -> Tensor:
    """[2, B]"""
    x, y, s, t = (lists[level].to(dtype).flatten(2) if lists else None for lists in call.feats + call.logits)
    batch, _, locations = (s if x is None else x).shape
    mask = masks[level]

    def normalized(values: Tensor, scale: float) -> Tensor:
        channels = values.shape[1]
        z = {
            "mask": mask.sum(),
            "mask_channels": channels * mask.sum() + NORMALIZER_EPSILON,
            "batch": batch,
            "numel": batch * channels * locations,
            "mask_all_levels": sum(m.sum() for m in masks),
            "value": call.value,
        }[call.normalizer]
        if z == 0:
            return mask.new_zeros(batch)
        return scale / z * (mask[:, None] * values).sum(dim=(1, 2))

    feature = head = mask.new_zeros(batch)
    if x is not None:
        weights = call.channel_weights[level].to(dtype)[..., None] if call.channel_weights else 1.0
        feature = normalized(weights * (x - y) ** 2, call.scales[0])
    if s is not None:
        q = t.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(s, q, reduction="none")
        focal = (s.sigmoid() - q).abs() ** call.beta if call.beta else 1.0
        head = normalized(focal * entropy, call.scales[1])
    return torch.stack([feature, head])


def sums(contributions: Tensor) -> dict[str, Tensor]:
    """losses, losses for per_image, and level_losses, from the contributions [2, levels, B]."""
    per_image, level_losses = contributions.sum(dim=1), contributions.sum(dim=2)
    per_image = torch.cat([per_image, per_image.sum(dim=0, keepdim=True)])
    return {"losses": per_image.sum(dim=1), "per_image": per_image, "level_losses": level_losses}


def check(call: Call, target) -> dict[str, Tensor]:
    """Compares what the operator returns with the formula, and the two kinds of losses with each other."""
    losses, level_losses, *others = call.run(target, per_image=False)
    per_image, level_losses_again, *others_again = call.run(target, per_image=True)
    actual = {"losses": losses, "per_image": per_image, "level_losses": level_losses}
    eager, exact = sums(formula(call, call.dtype)), sums(formula(call, torch.float64))
    for name in actual:
        assert_as_accurate(actual[name], eager[name], exact[name], what=name)
    assert_as_accurate(per_image.sum(dim=1), eager["losses"], exact["losses"], what="the sum over images")
    assert torch.equal(losses[2], losses[0] + losses[1])
    assert torch.equal(per_image[2], per_image[0] + per_image[1])
    assert torch.equal(level_losses, level_losses_again)
    pending, *grads = others
    pending_again, *grads_again = others_again
    assert torch.equal(pending, pending_again)
    assert all(map(torch.equal, grads[0] + grads[1], grads_again[0] + grads_again[1]))
    return actual


sizes_of_levels = st.lists(st.sampled_from((*SIZES, (0, 3), (2, 130), (40, 67))), min_size=1, max_size=5)


@given(
    mode=st.sampled_from(MODES), terms=st.sampled_from(TERMS), batch=st.integers(0, 4), sizes=sizes_of_levels,
    dtype=st.sampled_from(DTYPES), layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 2),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 80)), normalizer=st.sampled_from(NORMALIZERS),
    beta=st.sampled_from((0.0, 2.0)), weighted=st.booleans(),
)  # fmt: skip
def test_levels_and_images(target, **options):
    check(make_call(target, **options), target)


@pytest.mark.slow_interpreted
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_levels_of_several_tiles(target, layout, mode):
    common = {"sizes": LONG_SIZES, "batch": 3, "channels": (33, 130), "layouts": (layout, layout)}
    for normalizer in ("mask", "mask_all_levels", "value"):
        check(make_call(target, mode=mode, normalizer=normalizer, **common), target)


@pytest.mark.parametrize("mode", MODES)
def test_mixed_dtypes(target, mode):
    check(make_call(target, mode=mode, dtype=torch.float16, teacher_dtype=torch.bfloat16), target)


@pytest.mark.parametrize("mode", MODES)
def test_the_largest_number_of_levels(target, mode):
    sizes = [(1 + level % 3, 2 + level % 5) for level in range(MAX_LEVELS)]
    actual = check(make_call(target, mode=mode, sizes=sizes, batch=3), target)
    assert (actual["level_losses"] > 0).all() and (actual["per_image"] > 0).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("terms", TERMS)
def test_an_empty_batch(target, terms, mode):
    call = make_call(target, mode=mode, terms=terms, batch=0)
    losses, level_losses, pending, feat_grads, logit_grads = call.run(target, per_image=True)
    assert losses.shape == (3, 0) and pending.shape == (2, len(SIZES))
    assert torch.equal(level_losses, torch.zeros(2, len(SIZES), device=target.device))
    assert all(grad.shape[0] == 0 for grad in feat_grads + logit_grads)
    assert torch.equal(call.run(target, per_image=False)[0], torch.zeros(3, device=target.device))


@pytest.mark.parametrize("mode", MODES)
def test_the_images_add_up(target, mode):
    """In float64 to the last digits: no image is counted twice, and none is left out."""
    call = make_call(target, mode=mode, batch=5, dtype=torch.float64)
    per_image, level_losses, *_ = call.run(target, per_image=True)
    torch.testing.assert_close(per_image[:2].sum(dim=1), level_losses.sum(dim=1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_an_image_alone_has_the_loss_it_has_among_others(target, layout, mode):
    """A normalizer that is a number: then an image does not depend on the others."""
    call = make_call(target, mode=mode, normalizer="value", batch=3, layouts=(layout, layout))
    together, *_ = call.run(target, per_image=True)
    for b in range(3):
        one = replace(
            call,
            feats=[[level[b : b + 1] for level in levels] for levels in call.feats],
            logits=[[level[b : b + 1] for level in levels] for levels in call.logits],
            masks=[level[b : b + 1] for level in call.masks],
        )
        alone, *_ = one.run(target, per_image=False)
        torch.testing.assert_close(together[:, b], alone, rtol=1e-6, atol=0)


@pytest.mark.parametrize("terms", TERMS[1:])
@pytest.mark.parametrize("mode", MODES)
def test_a_term_that_is_absent_is_0(target, mode, terms):
    """Even where the mask is NaN, which reaches the other term."""
    call = make_call(target, mode=mode, terms=terms)
    (call.masks or call.logits[1])[1][1].fill_(torch.nan)
    absent = 1 if terms == "features" else 0
    for per_image in (False, True):
        losses, level_losses, *_ = call.run(target, per_image)
        assert (losses[absent] == 0).all() and losses[1 - absent].isnan().any()
        assert (level_losses[absent] == 0).all()
        assert level_losses[1 - absent].isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_a_level_whose_normalizer_is_0_contributes_nothing(target, mode, dtype):
    """Whatever its tensors contain; the other levels contribute as if it were not there."""
    call = make_call(target, mode=mode, dtype=dtype)
    (call.masks or call.logits[1])[1].fill_(0.0 if mode == "mask_given" else -torch.inf)
    call.feats[0][1][0].fill_(torch.inf)
    call.feats[1][1][1].fill_(torch.nan)
    call.logits[0][1][1].fill_(-torch.inf)
    rest = replace(
        call,
        feats=[levels[:1] + levels[2:] for levels in call.feats],
        logits=[levels[:1] + levels[2:] for levels in call.logits],
        masks=call.masks[:1] + call.masks[2:],
    )
    for per_image in (False, True):
        losses, level_losses, *_ = call.run(target, per_image)
        expected, expected_levels, *_ = rest.run(target, per_image)
        assert (level_losses[:, 1] == 0).all()
        torch.testing.assert_close(level_losses[:, [0, 2, 3]], expected_levels)
        torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_masks_that_are_0_on_all_levels_contribute_nothing(target, mode, dtype):
    """With one normalizer for all levels: whatever the tensors contain."""
    call = make_call(target, mode=mode, dtype=dtype, normalizer="mask_all_levels")
    for level in call.masks or call.logits[1]:
        level.fill_(0.0 if mode == "mask_given" else -torch.inf)
    call.feats[0][1][0].fill_(torch.inf)
    call.feats[1][2][1].fill_(torch.nan)
    call.logits[0][1][1].fill_(torch.nan)
    for per_image in (False, True):
        losses, level_losses, _, feat_grads, logit_grads = call.run(target, per_image)
        assert all((values == 0).all() for values in (losses, level_losses, *feat_grads, *logit_grads))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_a_normalizer_of_all_levels_is_that_of_one_level_with_all_locations(target, mode, dtype):
    call = make_call(target, mode=mode, dtype=dtype, layouts=("flat", "flat"), normalizer="mask_all_levels")
    one = replace(
        call,
        feats=[[torch.cat(levels, dim=2)] for levels in call.feats],
        logits=[[torch.cat(levels, dim=2)] for levels in call.logits],
        masks=[torch.cat([level.flatten(1) for level in call.masks], dim=1)] if call.masks else [],
        normalizer="mask",
    )
    (losses, levels, pending, *grads), expected = call.run(target, False), one.run(target, False)
    torch.testing.assert_close(losses, expected[0])
    torch.testing.assert_close(levels.sum(dim=1, keepdim=True), expected[1])
    for term, (of_levels, of_one) in enumerate(zip(grads, expected[3:], strict=True)):
        if not of_levels:
            continue
        together = torch.cat([g * f for g, f in zip(of_levels, pending[term], strict=True)], dim=2)
        torch.testing.assert_close(together, of_one[0] * expected[2][term, 0])


@pytest.mark.parametrize("mode", MODES)
def test_nan_and_infinity_stay_in_their_image_and_level(target, mode):
    """A number as the normalizer: a mask that is NaN would make the normalizer "mask" of all images NaN."""
    call = make_call(target, mode=mode, normalizer="value", batch=3)
    call.feats[0][0][1, 5, 2, 3] = torch.inf
    call.logits[0][2][2, 5, 2, 3] = torch.nan
    per_image, level_losses, *_ = call.run(target, per_image=True)
    assert per_image.isfinite().tolist() == [[True, False, True], [True, True, False], [True, False, False]]
    assert level_losses.isfinite().tolist() == [[False, True, True, True], [True, True, False, True]]
    assert per_image[0, 1] == level_losses[0, 0] == torch.inf and level_losses[1, 2].isnan()
