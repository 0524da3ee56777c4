"""LD, CWD and KD: their values by formula in float64, what they train, what they refuse, and whole runs."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_detectors import batch, tiny
from tiny_runs import quiet_fit, run_config

from frs_train.config import DistillConfig
from frs_train.detectors import Outputs
from frs_train.errors import UserError
from frs_train.training.distillation import DistilledLearner
from frs_train.training.masks import mask_sums
from frs_train.training.run_files import read_metrics
from frs_train.training.teacher import prepare_teacher
from frs_train.training.terms import TERMS

IMAGES, TARGETS = batch()
METHODS = ("ld", "cwd", "kd")
PAIRS = [
    ("ld", "gfl"),
    ("kd", "gfl"),
    ("kd", "fcos"),
    ("kd", "retinanet"),
    ("cwd", "gfl"),
    ("cwd", "faster-rcnn"),
]


def distiller(student="gfl", teacher="gfl", theirs=None, same_classes=True, **options):
    """A learner whose teacher is another network than its student."""
    torch.manual_seed(0)
    student, teacher = tiny(student), tiny(teacher, **{"fpn_width": 24, **(theirs or {})})
    config = DistillConfig(**{"warmup_iters": 0, **options})
    prepare_teacher(teacher, student, config, torch.device("cpu"))
    return DistilledLearner(student, teacher, config, same_classes, lambda text: None).train()


def divergences(s, t, dim, tau):
    """KL(softmax(t / tau) || softmax(s / tau)) along a dimension."""
    p, q = (torch.softmax(x / tau, dim) for x in (t, s))
    return (p * (p / q).log()).sum(dim)


def in_float64(learner) -> tuple[Outputs, Outputs]:
    """What student and teacher compute from the batch, as float64 numbers."""
    edges = learner.loss.has_edges
    with torch.no_grad():
        out = learner.student(IMAGES, TARGETS, size=64)
        taught = learner.teacher(IMAGES, size=64, masks=True, edges=edges)
    lists = ("feats", "cls_logits", "edge_logits", "masks")
    return tuple(
        replace(one, **{name: [level.double() for level in getattr(one, name)] for name in lists})
        for one in (out, taught)
    )


def shares(learner, out, taught, tau, divisor):
    """What each level contributes with weight 1. `divisor(mask, channels)` is that of ld and kd."""
    if learner.loss.name == "cwd":
        pairs = zip(learner.loss.adapter(out.feats), taught.feats, strict=True)
        return torch.stack(
            [tau**2 * divergences(s.flatten(2), t.flatten(2), 2, tau).mean() for s, t in pairs]
        ).detach()
    name, groups = (
        ("edge_logits", 4) if learner.loss.has_edges else ("cls_logits", learner.student.num_anchors)
    )
    values = []
    for s, t, mask in zip(getattr(out, name), getattr(taught, name), taught.masks, strict=True):
        each = divergences(s.unflatten(1, (groups, -1)), t.unflatten(1, (groups, -1)), 2, tau)
        values.append(tau**2 * (mask * each.sum(1)).sum() / divisor(mask, s.shape[1]))
    return torch.stack(values)


@pytest.mark.parametrize("tau", [1.0, 3.0])
@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_term_and_levels_are_those_of_the_formula(method, family, tau):
    options = {f"{method}_weight": 0.3, f"{method}_temperature": tau}
    learner = distiller(family, family, method=method, **options)
    out, taught = in_float64(learner)
    found = learner.loss.double().terms(out, taught, taught.masks)[method]
    expected = 0.3 * shares(learner, out, taught, tau, lambda mask, _: mask.sum())
    assert float(expected.sum()) > 0
    torch.testing.assert_close(found.levels, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.loss.detach(), expected.sum(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_learner_adds_the_term_to_the_losses_of_the_detector(method):
    learner = distiller(method=method)
    losses = learner(IMAGES, TARGETS, 64)
    levels = learner.level_losses
    with torch.no_grad():
        out, taught = learner.student(IMAGES, TARGETS, size=64), learner.teach(IMAGES, 64)
        expected = learner.loss.terms(out, taught, [mask.clone() for mask in taught.masks])[method]
    assert set(losses) - set(out.losses) == {method} and list(levels) == [TERMS[method]]
    assert torch.equal(losses[method].detach(), expected.loss)
    assert torch.equal(levels[TERMS[method]], expected.levels) and not levels[TERMS[method]].requires_grad


DIVISORS = {
    "mask_channels": lambda mask, channels: channels * mask.sum(),
    "batch": lambda mask, channels: len(mask),
    "numel": lambda mask, channels: channels * mask.numel(),
}


@pytest.mark.parametrize("normalizer", [*DIVISORS, "mask_all_levels"])
@pytest.mark.parametrize("method", ["ld", "kd"])
def test_normalizer_is_that_of_the_other_losses(method, normalizer):
    options = {f"{method}_weight": 1.0, f"{method}_temperature": 2.0}
    learner = distiller(method=method, normalizer=normalizer, **options)
    out, taught = in_float64(learner)
    found = learner.loss.terms(out, taught, taught.masks)[method].levels
    total = sum(mask.sum() for mask in taught.masks)
    expected = shares(learner, out, taught, 2.0, DIVISORS.get(normalizer, lambda *_: total))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-8)


def test_normalizer_does_not_concern_cwd():
    one, other = (
        distiller(method="cwd", normalizer=n)(IMAGES, TARGETS, 64)["cwd"] for n in ("mask", "numel")
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("method", "trained", "idle"),
    [
        ("ld", ["regression_head"], ["classification_head"]),
        ("kd", ["classification_head"], ["regression_head"]),
        ("cwd", ["loss.adapter"], ["classification_head", "regression_head"]),
    ],
)
def test_gradient_reaches_what_the_term_concerns(method, trained, idle):
    learner = distiller(method=method)
    learner(IMAGES, TARGETS, 64)[method].backward()
    reached = {
        name for name, p in learner.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert all(any(part in name for name in reached) for part in [*trained, "backbone.body", "backbone.fpn"])
    assert not any(part in name for name in reached for part in idle)
    assert all(p.grad is None for p in learner.teacher.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_gets_a_gradient(method):
    """DDP would wait for the others."""
    learner = distiller(method=method)
    sum(learner(IMAGES, TARGETS, 64).values()).backward()
    assert [name for name, p in learner.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("method", METHODS)
def test_the_teacher_computes_what_the_method_needs_and_no_more(method):
    taught = distiller(method=method).teach(IMAGES, 64)
    assert bool(taught.edge_logits) == (method == "ld")
    assert bool(taught.masks) == bool(taught.cls_logits) == (method != "cwd")


@pytest.mark.parametrize("method", METHODS)
def test_warm_up_is_linear(method):
    learner = distiller(method=method, warmup_iters=4)
    values = []
    for step in (0, 1, 1, 2, 4, 9):
        learner.set_step(step)
        with torch.no_grad():
            values.append(float(learner(IMAGES, TARGETS, 64)[method]))
    full = values[-1]
    assert full > 0 and values == pytest.approx([0, full / 4, full / 4, full / 2, full, full], rel=1e-4)


@pytest.mark.parametrize("all_levels", [False, True])
def test_divisors_are_means_over_processes(monkeypatch, all_levels):
    """A second process whose masks have sums of 5 and 0."""
    monkeypatch.setattr("frs_train.distributed.mean", lambda sums: (sums + torch.tensor([5.0, 0.0])) / 2)
    masks = [torch.ones(1, 1, 3), torch.ones(1, 2, 2)]
    found = mask_sums(masks, "mask_all_levels" if all_levels else "mask")
    assert [float(z) for z in found] == ([6.0, 6.0] if all_levels else [4.0, 2.0])


def test_a_level_without_a_mask_contributes_nothing(monkeypatch):
    learner = distiller(method="ld")
    monkeypatch.setattr(
        learner, "masks", lambda taught, *_: [torch.zeros_like(mask) for mask in taught.masks]
    )
    found = learner(IMAGES, TARGETS, 64)["ld"]
    found.backward()
    assert float(found.detach()) == 0
    assert all(math.isfinite(p.grad.sum()) for p in learner.student.parameters() if p.grad is not None)


def test_edges_need_no_common_classes():
    learner = distiller(method="ld", theirs={"num_classes": 7}, same_classes=False)
    assert float(learner(IMAGES, TARGETS, 64)["ld"]) > 0


def test_channels_need_no_common_detector():
    learner = distiller("fcos", "faster-rcnn", method="cwd")
    assert learner(IMAGES, TARGETS, 64)["cwd"] > 0 and len(learner.levels) == 4


@pytest.mark.parametrize(
    ("pair", "options", "words"),
    [
        (
            ("fcos", "gfl"),
            {"method": "ld"},
            "--method ld .* the student is a fcos, .* only gfl .*another --method",
        ),
        (("gfl", "retinanet"), {"method": "ld"}, "--method ld .* the teacher is a retinanet, .* only gfl"),
        (("gfl", "gfl"), {"method": "ld", "theirs": {"anchor_size": 64}}, "--method ld .*one --anchor-size"),
        (("fcos", "gfl"), {"method": "kd"}, "--method kd .* gfl teacher's logits mean something else"),
        (
            ("gfl", "gfl"),
            {"method": "kd", "theirs": {"num_classes": 2}},
            "teacher has 2 classes, the student 3",
        ),
        (("gfl", "gfl"), {"method": "kd", "same_classes": False}, "--method kd .* different classes"),
        (("faster-rcnn", "faster-rcnn"), {"method": "kd"}, "the RPN of a faster-rcnn has only one.*frs-head"),
        (("gfl", "gfl"), {"method": "cwd", "adapter": "identity"}, "--adapter identity needs equal channels"),
    ],
)
def test_what_does_not_fit_is_refused(pair, options, words):
    with pytest.raises(UserError, match=words):
        distiller(*pair, **options)


@pytest.mark.parametrize("method", METHODS)
def test_a_backend_without_the_loss_is_refused_before_the_training(monkeypatch, method):
    """As the CUDA kernels are, which are a part of "native"."""

    def refuse(*_, backend, **__):
        raise RuntimeError(f"backend {backend} has no such kernel")

    monkeypatch.setattr("frs_kernels.weighted_kl", refuse)
    with pytest.raises(
        UserError, match=f"--backend eager cannot compute --method {method}: .* no such kernel"
    ):
        distiller(method=method, backend="eager")


def test_one_class_has_no_distribution():
    student = tiny("gfl", num_classes=1)
    with pytest.raises(UserError, match="the data has only one. Use --method frs-head"):
        DistilledLearner(student, student, DistillConfig(method="kd"), True, print)


@pytest.mark.parametrize(
    ("method", "options"),
    [("ld", {"amp": "fp16"}), ("cwd", {"amp": "bf16", "channels_last": True}), ("kd", {})],
)
def test_run_logs_the_term_its_levels_and_its_ratio(digits, teachers, tmp_path, method, options):
    distill = DistillConfig(teacher=str(teachers("gfl")), method=method, warmup_iters=2, inherit_head=False)
    quiet_fit(run_config(digits, tmp_path, distill=distill, detector={"family": "gfl"}, **options))
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "train"]
    assert lines[0]["losses"][method] == 0 < lines[-1]["losses"][method], "warm-up"
    assert list(lines[-1]["levels"]) == [f"{method}_level_{i}" for i in range(5)]
    assert sum(lines[-1]["levels"].values()) == pytest.approx(lines[-1]["losses"][method], rel=1e-4)
    assert {method, f"{method}_level_0"} <= lines[-1]["ratios"].keys() and lines[-1]["ratios"][method] > 0
