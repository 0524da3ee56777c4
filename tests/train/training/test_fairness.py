"""Runs that differ only in how they distill start from the same student and see the same images, bit by bit.

What differs in their results is then due to the distillation.
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytest
import torch
from tiny_runs import quiet_fit, run_config

from frs_train.config import DistillConfig, Method
from frs_train.evaluation.coco_metrics import METRICS
from frs_train.training import trainer


@dataclass
class Seen:
    """What a student has at its first step and gets in all steps, as hashes."""

    start: dict[str, str] = field(default_factory=dict)
    """Its weights and buffers before the first step."""
    batches: list[Any] = field(default_factory=list)
    """Of each micro-batch: pixels, boxes and labels, image size."""
    generators: list[str] = field(default_factory=list)
    """The state of torch's generator before each micro-batch, from which the student draws."""


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def seen_in(config) -> Seen:
    """Trains with this configuration and watches the student in each optimizer step."""
    seen = Seen()
    step = trainer.optimizer_step

    def note(student, inputs, options):
        images, targets = inputs
        seen.batches.append(
            [
                [digest(image) for image in images],
                [{k: digest(v) for k, v in t.items()} for t in targets],
                options,
            ]
        )
        seen.generators.append(digest(torch.get_rng_state()))

    def watched(state, module, batches, **options):
        if state.iteration == 0:
            seen.start = {name: digest(value) for name, value in state.student.state_dict().items()}
        hook = state.student.register_forward_pre_hook(note, with_kwargs=True)
        try:
            return step(state, module, batches, **options)
        finally:
            hook.remove()

    scores = dict.fromkeys([*METRICS, "classes", "max_detections"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "optimizer_step", watched)
        patch.setattr(trainer, "evaluate", lambda *_, **__: scores)
        quiet_fit(config)
    return seen


def config_of(digits, out, distill, workers=0, family="fcos", **train):
    """Four steps are more than one epoch of the 12 images; each draws one of two image sizes."""
    detector = {"family": family, "min_size": (48, 64)}
    config = run_config(digits, out, distill=distill, detector=detector, seed=7, **train)
    return replace(config, data=replace(config.data, workers=workers))


@pytest.fixture(scope="module")
def plain(digits, teachers, tmp_path_factory) -> Callable[[str], Seen]:
    """plain(family): the run without distillation, whose student has the teacher's head."""

    def made(family: str) -> Seen:
        distill = DistillConfig(teacher=str(teachers(family)), method="none")
        return seen_in(config_of(digits, tmp_path_factory.mktemp("plain"), distill, family=family))

    return functools.cache(made)


METHODS = get_args(Method)


def family_of(method: str) -> str:
    return "gfl" if method == "ld" else "fcos"


VARIANTS = [
    {"feat_weight": 0.3, "head_weight": 0.0},
    {"normalizer": "numel"},
    {"normalizer": "batch", "warmup_iters": 0},
    {"adapter": "mlp1x1"},
    {"adapter": "identity"},
    {"teacher_amp": "bf16", "teacher_channels_last": True},
]


@pytest.mark.parametrize(
    ("options", "workers"),
    [
        *(({"method": method}, 0) for method in METHODS),
        *((variant, 0) for variant in VARIANTS),
        ({"method": "none"}, 2),
        ({"method": "frs"}, 2),
    ],
    ids=str,
)
def test_student_and_images_do_not_depend_on_the_distillation(
    digits, teachers, tmp_path, plain, options, workers
):
    family = family_of(options.get("method", "frs"))
    distill = DistillConfig(teacher=str(teachers(family)), **options)
    assert seen_in(config_of(digits, tmp_path, distill, workers, family)) == plain(family)


@pytest.fixture(scope="module")
def alone(digits, tmp_path_factory) -> Callable[[str], Seen]:
    """alone(family): the run without a teacher."""

    def made(family: str) -> Seen:
        return seen_in(config_of(digits, tmp_path_factory.mktemp("alone"), None, family=family, iterations=1))

    return functools.cache(made)


@pytest.mark.parametrize("method", METHODS)
def test_student_with_its_own_head_is_that_of_a_run_without_a_teacher(
    digits, teachers, tmp_path, alone, method
):
    family = family_of(method)
    distill = DistillConfig(teacher=str(teachers(family)), method=method, inherit_head=False)
    assert seen_in(config_of(digits, tmp_path, distill, family=family, iterations=1)) == alone(family)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        # Faster R-CNN samples proposals in each step; the teacher, an FCOS, teaches it features only.
        ("frs-feature", {"family": "faster-rcnn", "iterations": 2}),
        ("frs", {"accumulate": 2, "ema": 0.9}),
    ],
)
def test_both_with_other_options_see_the_same(digits, teacher, tmp_path, method, options):
    plain, taught = (
        seen_in(config_of(digits, tmp_path / m, DistillConfig(teacher=str(teacher), method=m), **options))
        for m in ("none", method)
    )
    assert plain == taught


def test_another_seed_differs_in_all_of_it(digits, teacher, tmp_path, plain):
    """What the tests above compare is not constant."""
    plain = plain("fcos")
    config = config_of(digits, tmp_path, DistillConfig(teacher=str(teacher), method="none"))
    other = seen_in(replace(config, train=replace(config.train, seed=8)))
    head = {name for name in plain.start if "cls_logits" in name}
    assert head and all(other.start[name] == plain.start[name] for name in head)  # the teacher's
    assert other.start["model.backbone.body.conv1.weight"] != plain.start["model.backbone.body.conv1.weight"]
    assert all(a != b for a, b in zip(other.batches, plain.batches, strict=True))
    assert all(a != b for a, b in zip(other.generators, plain.generators, strict=True))
    pixels = [image for images, _, _ in plain.batches for image in images]
    assert len(pixels) == 16 and len(set(pixels)) == 16
    assert len({str(options) for _, _, options in plain.batches}) == 2
