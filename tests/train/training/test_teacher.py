"""The prepared teacher: the features and logits of its detector, without batch norm of its own."""

import pytest
import torch
from tiny_detectors import FAMILIES, batch, tiny
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from frs_train.config import DistillConfig
from frs_train.training.distillation import DistilledLearner
from frs_train.training.teacher import prepare_teacher

IMAGES, TARGETS = batch()
NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)
DETECTORS = [(family, "resnet10") for family in FAMILIES] + [("fcos", "resnet50"), ("fcos", "mobilenet-v3")]


def trained(family: str, **options):
    """A detector whose batch norm changes every channel, as after a training, and keeps the scale."""
    torch.manual_seed(0)
    detector = tiny(family, **options).eval()
    for norm in detector.modules():
        if isinstance(norm, NORMS):
            for values, low, high in (
                (norm.weight, 0.5, 1.5), (norm.bias, -0.2, 0.2),
                (norm.running_mean, -0.2, 0.2), (norm.running_var, 0.5, 1.5),
            ):  # fmt: skip
                values.data.uniform_(low, high)
    return detector


def prepared(teacher, **options):
    config = DistillConfig(warmup_iters=0, **options)
    return prepare_teacher(teacher, tiny(teacher.family), config, torch.device("cpu"))


@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("family, backbone", DETECTORS)
def test_features_and_logits_are_those_of_the_detector(family, backbone, norm):
    teacher = trained(family, backbone=backbone, backbone_norm=norm)
    with torch.no_grad():
        expected = teacher(IMAGES, size=64)
        found = prepared(teacher)(IMAGES, size=64)
    assert not any(isinstance(module, NORMS) for module in teacher.modules())
    for tensors in ("feats", "cls_logits"):
        for one, other in zip(getattr(found, tensors), getattr(expected, tensors), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_a_prepared_teacher_may_be_prepared_again():
    teacher = prepared(trained("fcos", backbone_norm="batch"))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    torch.testing.assert_close(prepared(teacher).state_dict(), before, rtol=0, atol=0)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())


def test_group_norm_stays():
    teacher = prepared(tiny("fcos"))
    count = sum(isinstance(module, nn.GroupNorm) for module in teacher.modules())
    assert count == sum(isinstance(module, nn.GroupNorm) for module in tiny("fcos").modules()) > 0


def test_features_on_a_cpu_are_channels_last_unless_compiled():
    with torch.no_grad():
        feats = prepared(tiny("fcos"))(IMAGES, size=64).feats
    assert all(feat.is_contiguous(memory_format=torch.channels_last) for feat in feats)
    compiled = prepared(tiny("fcos"), teacher_compile=True)  # not run, and so not compiled
    assert all(parameter.is_contiguous() for parameter in compiled.parameters())


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_the_student_keeps_its_batch_norm(norm):
    student = tiny("fcos", backbone_norm=norm)
    keys = {f"student.{key}" for key in student.state_dict()}
    config = DistillConfig(warmup_iters=0)
    teacher = prepare_teacher(trained("fcos", backbone_norm=norm), student, config, torch.device("cpu"))
    learner = DistilledLearner(student, teacher, config, True, pytest.fail).train()
    assert {key for key in learner.state_dict() if key.startswith("student.")} == keys
    assert any(isinstance(module, NORMS) for module in learner.student.modules())
    sum(learner(IMAGES, TARGETS, 64).values()).backward()
