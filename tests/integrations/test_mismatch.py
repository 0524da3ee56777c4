"""Students whose features differ from the teacher's in channels, size, stride or number of levels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import frs_kernels as frs


def levels(channels, sizes, seed: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    channels = [channels] * len(sizes) if isinstance(channels, int) else channels
    return [torch.randn(2, c, *size, generator=random) for c, size in zip(channels, sizes, strict=True)]


TEACHER_SIZES = [(13, 21), (7, 11), (4, 6)]
HALF_STRIDE = [(26, 42), (13, 21), (7, 11)]  # a student on a pyramid of half the strides
OTHER_ROUNDING = [(12, 21), (6, 10), (3, 5)]  # the same strides, rounded down where the teacher rounds up


@pytest.mark.parametrize("kind", ["conv3x3", "conv1x1", "mlp1x1"])
@pytest.mark.parametrize("sizes", [TEACHER_SIZES, HALF_STRIDE, OTHER_ROUNDING])
def test_the_whole_loss_over_other_channels_and_sizes(kind, sizes):
    student, teacher, logits = levels(8, sizes), levels(20, TEACHER_SIZES, 1), levels(6, TEACHER_SIZES, 2)
    criterion = frs.FRSDistillationLoss(
        8, 20, 3, adapter=kind, resize=True, warmup_iters=0, feat_weight=1.0, head_weight=1.0
    )
    loss = criterion(student, teacher, teacher_logits=logits)
    loss.total.backward()
    expected = 0.0
    for layer, x, y, t in zip(criterion.adapter.layers, student, teacher, logits, strict=True):
        adapted = F.interpolate(layer(x), size=y.shape[-2:], mode="bilinear", align_corners=False)
        mask = t.sigmoid().amax(dim=1, keepdim=True)
        expected = expected + ((adapted - y) ** 2 * mask).sum() / mask.sum()
    torch.testing.assert_close(loss.total, expected)
    assert loss.head == 0
    assert all(p.grad.abs().sum() > 0 for p in criterion.adapter.parameters())


def test_channels_that_differ_from_level_to_level():
    """YOLO's pyramid: 64, 128, 256 channels for the student, 128, 256, 512 for the teacher."""
    student, teacher = levels([8, 16, 32], TEACHER_SIZES), levels([16, 32, 64], TEACHER_SIZES, 1)
    adapter = frs.FeatureAdapter([8, 16, 32], [16, 32, 64], kind="mlp1x1")
    assert [x.shape for x in adapter(student)] == [y.shape for y in teacher]


def test_equal_sizes_are_not_touched_by_resize():
    feats = levels(8, TEACHER_SIZES)
    adapter = frs.FeatureAdapter(8, 8, 3, kind="identity", resize=True)
    assert all(x is y for x, y in zip(adapter(feats, TEACHER_SIZES), feats, strict=True))


@pytest.mark.parametrize(
    ("sizes", "message"), [(HALF_STRIDE, r"level 0: .*\[2, 20, 26, 42\].*\[2, 20, 13, 21\].*resize=True")]
)
def test_sizes_that_differ_without_resize_raise_and_name_the_remedy(sizes, message):
    criterion = frs.FRSDistillationLoss(8, 20, 3, warmup_iters=0)
    with pytest.raises(ValueError, match=message):
        criterion(levels(8, sizes), levels(20, TEACHER_SIZES, 1), teacher_logits=levels(6, TEACHER_SIZES, 2))


def test_a_shorter_student_pyramid_takes_the_teachers_levels_of_the_same_stride():
    """P3-P5 and P2-P6: slices of the lists are enough; another number of levels raises."""
    sizes = [(26, 42), *TEACHER_SIZES, (2, 3)]
    teacher, logits, student = levels(12, sizes, 1), levels(6, sizes, 2), levels(12, TEACHER_SIZES)
    loss = frs.frs_loss(student, teacher[1:4], teacher_logits=logits[1:4])
    assert loss.feature > 0
    with pytest.raises(ValueError, match="student_feats has 3 levels, teacher_feats has 5"):
        frs.frs_loss(student, teacher, teacher_logits=logits)


def test_a_teacher_with_other_classes_still_gives_the_mask():
    """Only the head term compares classes one by one."""
    student, teacher = levels(12, TEACHER_SIZES), levels(12, TEACHER_SIZES, 1)
    teacher_logits, student_logits = levels(80, TEACHER_SIZES, 2), levels(6, TEACHER_SIZES, 3)
    assert frs.frs_loss(student, teacher, teacher_logits=teacher_logits).feature > 0
    with pytest.raises(ValueError, match="level 0: student_logits .* leave student_logits out otherwise"):
        frs.frs_loss(student, teacher, student_logits=student_logits, teacher_logits=teacher_logits)


def test_resizing_and_adapting_can_match_the_teacher():
    """A student at half the stride reproduces the teacher's features with the right adapter."""
    student = levels(8, HALF_STRIDE[:1])
    truth = nn.Conv2d(8, 12, 1).requires_grad_(False)
    teacher = [F.interpolate(truth(student[0]), size=TEACHER_SIZES[0], mode="bilinear", align_corners=False)]
    logits = levels(6, TEACHER_SIZES[:1], 2)
    criterion = frs.FRSDistillationLoss(
        8, 12, 1, adapter="conv1x1", resize=True, warmup_iters=0, feat_weight=1.0
    )
    before = criterion(student, teacher, teacher_logits=logits).total
    before.backward()
    assert all(p.grad.abs().max() > 0 for p in criterion.parameters())
    criterion.adapter.layers[0].load_state_dict(truth.state_dict())
    assert criterion(student, teacher, teacher_logits=logits).total < 1e-10 * before
