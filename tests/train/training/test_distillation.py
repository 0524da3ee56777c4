"""One step of each method: its losses, the work of the teacher, and the single run of each head."""

import pytest
import torch
from tiny_detectors import batch, tiny

import frs_kernels as frs
from frs_train.config import DistillConfig
from frs_train.errors import UserError
from frs_train.training.distillation import DistilledLearner
from frs_train.training.masks import box_masks
from frs_train.training.teacher import inherit_head, prepare_teacher

IMAGES, TARGETS = batch()
EXPECTED = {
    "whole-map": {"frs_feature"},
    "gt-box": {"frs_feature"},
    "frs-feature": {"frs_feature"},
    "frs-head": {"frs_head"},
    "frs": {"frs_feature", "frs_head"},
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def distiller(student=None, teacher=None, warn=None, same_classes=True, **options):
    student, teacher = student or tiny("fcos"), teacher or tiny("fcos", fpn_width=24)
    config = DistillConfig(**{"warmup_iters": 0, "feat_weight": 1.0, "head_weight": 1.0, **options})
    prepare_teacher(teacher, student, config, torch.device("cpu"))
    warnings = []
    made = DistilledLearner(student, teacher, config, same_classes, warn or warnings.append)
    assert warn is not None or warnings == []
    return made.train()


@pytest.mark.parametrize("method", EXPECTED)
def test_losses_of_each_method(method):
    learner = distiller(method=method)
    losses = learner(IMAGES, TARGETS, 64)
    own = set(learner.student(IMAGES, TARGETS, size=64).losses)
    assert set(losses) - own == EXPECTED[method]
    sum(losses.values()).backward()
    assert all(
        p.grad is not None for p in learner.parameters() if p.requires_grad
    )  # or DDP would wait for them


@pytest.mark.parametrize("method", EXPECTED)
def test_losses_equal_those_of_the_reference(method):
    learner = distiller(method=method, feat_weight=0.3, head_weight=0.7)
    losses = learner(IMAGES, TARGETS, 64)
    teacher, student = learner.teacher, learner.student
    with torch.no_grad():
        taught, out = teacher(IMAGES, size=64), student(IMAGES, TARGETS, size=64)
        feats = learner.loss.adapter(out.feats) if learner.loss.use_feats else None
        masks = {
            "whole-map": lambda: [torch.ones_like(f[:, 0]) for f in taught.feats],
            "gt-box": lambda: box_masks(taught, TARGETS, IMAGES, list(teacher.strides)),
        }.get(method, lambda: frs.reference.frs_mask(taught.cls_logits))()
        expected = frs.reference.frs_loss(
            feats,
            taught.feats if learner.loss.use_feats else None,
            student_logits=out.cls_logits if learner.loss.use_head else None,
            teacher_logits=taught.cls_logits,
            masks=masks,
            feat_weight=0.3,
            head_weight=0.7,
        )
    parts = {}
    if "frs_feature" in losses:
        torch.testing.assert_close(losses["frs_feature"].detach(), expected.feature)
        parts["feature_level"] = expected.feature_levels
    if "frs_head" in losses:
        torch.testing.assert_close(losses["frs_head"].detach(), expected.head)
        parts["head_level"] = expected.head_levels
    torch.testing.assert_close(learner.level_losses, parts)
    assert not any(values.requires_grad for values in learner.level_losses.values())


@pytest.mark.parametrize("normalizer", ["mask", "mask_all_levels"])
def test_the_normalizer_of_several_processes_is_that_of_one(monkeypatch, normalizer):
    """Here the mean over all processes is that of one."""
    monkeypatch.setattr("frs_train.distributed.mean", lambda values: values)
    student, teacher = tiny("fcos"), tiny("fcos", fpn_width=24)
    results = []
    for world in (1, 2):
        monkeypatch.setattr("frs_train.distributed.world", lambda world=world: world)
        torch.manual_seed(0)
        learner = distiller(student, teacher, normalizer=normalizer, feat_weight=0.3)
        assert learner.loss.divided == (normalizer if world > 1 else None)
        with torch.no_grad():
            losses = learner(IMAGES, TARGETS, 64)
        results.append({name: losses[name] for name in EXPECTED["frs"]})
    torch.testing.assert_close(results[1], results[0])


def test_each_head_runs_once_and_the_teacher_without_autograd():
    learner = distiller()
    runs = {"student": 0, "teacher": 0}

    def count(name):
        def hook(module, inputs, output):
            runs[name] += 1
            if name == "teacher":
                assert torch.is_inference_mode_enabled() and output.is_inference()

        return hook

    learner.student.model.head.classification_head.cls_logits.register_forward_hook(count("student"))
    learner.teacher.model.head.classification_head.cls_logits.register_forward_hook(count("teacher"))
    before = [p.clone() for p in learner.teacher.parameters()]
    sum(learner(IMAGES, TARGETS, 64).values()).backward()
    levels = len(learner.levels)
    assert runs == {"student": levels, "teacher": levels}
    assert all(torch.equal(a, b) for a, b in zip(before, learner.teacher.parameters(), strict=True))


@pytest.mark.parametrize("method", EXPECTED)
def test_the_teacher_computes_what_the_method_needs_and_no_more(method):
    taught = distiller(method=method).teach(IMAGES, 64)
    needs_logits = method not in ("whole-map", "gt-box")
    assert bool(taught.masks) == bool(taught.cls_logits) == needs_logits and taught.edge_logits == []


def test_teacher_is_not_a_submodule_of_the_learner():
    learner = distiller()
    theirs = {id(p) for p in learner.teacher.parameters()}
    assert theirs.isdisjoint(id(p) for p in learner.parameters())
    learner.train()
    assert not learner.teacher.training
    assert {key.split(".")[0] for key in learner.state_dict()} == {"student", "loss"}


def test_warm_up_is_linear_and_saved():
    learner = distiller(warmup_iters=4)
    values = []
    for step in (0, 1, 1, 2, 4, 9):
        learner.set_step(step)
        with torch.no_grad():
            values.append(float(learner(IMAGES, TARGETS, 64)["frs_feature"]))
    full = values[-1]
    assert values == pytest.approx([0, full / 4, full / 4, full / 2, full, full], rel=1e-4)
    assert learner.state_dict()["loss.iteration"] == 9


def test_teacher_of_another_family_leaves_the_feature_loss_with_a_message():
    warnings = []
    learner = distiller(teacher=tiny("retinanet"), warn=warnings.append)
    assert "frs_head" not in learner(IMAGES, TARGETS, 64)
    assert len(warnings) == 1 and "head loss is off" in warnings[0]


def test_two_stage_teacher_shares_the_common_strides():
    learner = distiller(teacher=tiny("faster-rcnn"), warn=lambda text: None)
    strides = [(learner.student.strides[s], learner.teacher.strides[t]) for s, t in learner.levels]
    assert strides == [(8, 8), (16, 16), (32, 32), (64, 64)]
    assert learner(IMAGES, TARGETS, 64)["frs_feature"] > 0


def test_different_classes_turn_the_head_loss_off():
    warnings = []
    learner = distiller(same_classes=False, warn=warnings.append)
    assert not learner.loss.use_head and "different classes" in warnings[0]
    distiller(same_classes=False, method="whole-map")  # has no head loss that could be off


def test_unknown_backend_is_an_error():
    with pytest.raises(UserError, match="--backend warp cannot run here"):
        distiller(backend="warp")


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_the_teacher_may_run_in_half_precision(amp):
    exact = distiller()
    half = distiller(exact.student, exact.teacher, teacher_amp=amp, teacher_channels_last=True)
    half.loss.load_state_dict(exact.loss.state_dict())
    with torch.no_grad():
        expected, found = exact(IMAGES, TARGETS, 64), half(IMAGES, TARGETS, 64)
    for name in ("frs_feature", "frs_head"):
        torch.testing.assert_close(found[name], expected[name], rtol=0.02, atol=1e-3)


def test_teacher_resizes_like_the_student():
    student, teacher = tiny("fcos", max_size=100), tiny("fcos", min_size=(32,), max_size=400)
    learner = distiller(student, teacher)
    image = torch.rand(3, 60, 180)
    taught, outputs = learner.teach([image], 64), student([image], size=64)
    assert taught.image_sizes == outputs.image_sizes == [(33, 100)]
    assert [f.shape[-2:] for f in taught.feats] == [f.shape[-2:] for f in outputs.feats]


def test_inheriting_copies_the_head_where_it_fits():
    teacher, student = tiny("fcos"), tiny("fcos", num_classes=3, backbone_width=0.5)
    body = {k: v.clone() for k, v in student.state_dict().items() if "head" not in k}
    assert inherit_head(student, teacher) > 0
    for key, value in student.state_dict().items():
        assert torch.equal(value, teacher.state_dict()[key] if "head" in key else body[key])
    wider = tiny("fcos", num_classes=4)
    inherit_head(wider, teacher)
    name = "model.head.classification_head.cls_logits.weight"
    assert wider.state_dict()[name].shape[0] == 4


def test_box_masks_mark_the_locations_in_boxes():
    detector = tiny("fcos").eval()
    image = torch.rand(3, 32, 64)  # resized by 2 to 64 x 128
    boxes = torch.tensor([[8.0, 4.0, 24.0, 20.0]])  # 16, 8, 48, 40 after resizing
    taught = detector([image], size=64)
    masks = box_masks(taught, [{"boxes": boxes}], [image], list(detector.strides))
    expected = torch.zeros(8, 16)
    expected[1:5, 2:6] = 1
    assert torch.equal(masks[0][0], expected)
    assert [m.shape[-2:] for m in masks] == [f.shape[-2:] for f in taught.feats]
