"""torchdistill's own training box, configured by the YAML files of the examples."""

from pathlib import Path

import pytest
import torch

import frs_kernels as frs

pytest.importorskip("torchdistill", reason="needs torchdistill (pip install torchdistill)")
pytest.importorskip("torchvision", reason="needs torchvision (pip install torchvision)")

from torchdistill.common.yaml_util import load_yaml_file  # noqa: E402
from torchdistill.losses.registry import get_mid_level_loss  # noqa: E402
from torchdistill.models.registry import get_auxiliary_model_wrapper  # noqa: E402
from torchdistill_detection import detection_collate, distillation_box, train  # noqa: E402

from frs_kernels.integrations.torchdistill import FRSLoss, FRSStudent, FRSTeacher  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"
HEADS = {"retinanet": "head.classification_head", "faster_rcnn": "rpn.head"}
SIZES = [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]


@pytest.fixture(params=HEADS)
def family(request) -> str:
    return request.param


def levels(channels: int, seed: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, *size, generator=random) for size in SIZES]


def flat(logits: list[torch.Tensor], anchors: int) -> torch.Tensor:
    """Logits [B, A*K, H, W] of all levels as torchvision's [B, sum(H*W*A), K]."""
    rows = [x.unflatten(1, (anchors, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in logits]
    return torch.cat(rows, dim=1)


def frs_loss_of_a_configuration(**kwargs) -> FRSLoss:
    names = ("student_features", "teacher_features", "teacher_logits", "student_logits")
    sources = {name: {"path": name.split("_")[1], "io": "output"} for name in names}
    return get_mid_level_loss({"key": "FRSLoss", "kwargs": sources | {"warmup_iters": 0} | kwargs})


def kept(feats, logits) -> dict:
    return {"features": {"output": feats}, "logits": {"output": logits}}


def test_the_box_trains_student_and_adapters_and_leaves_the_teacher_alone(family):
    torch.manual_seed(0)
    box = distillation_box(EXAMPLES / f"torchdistill_{family}.yaml")
    assert isinstance(box.student_model, FRSStudent)
    assert isinstance(box.teacher_model, FRSTeacher)
    before = {name: value.clone() for name, value in box.student_model.state_dict().items()}
    teacher = {name: value.clone() for name, value in box.teacher_model.state_dict().items()}
    losses = train(box)
    assert len(losses) == 3
    assert all(torch.tensor(losses).isfinite())
    after = box.student_model.state_dict()
    for name in (
        "student_model.backbone.body.conv1.weight",
        "adapter.layers.0.weight",
        "adapter.layers.4.bias",
    ):
        assert not torch.equal(before[name], after[name]), name
    torch.testing.assert_close(box.teacher_model.state_dict(), teacher, rtol=0, atol=0)
    assert not box.teacher_model.training
    assert not box.teacher_model.teacher_model.training


def test_the_loss_of_the_box_is_frs_loss_plus_the_detectors_own(family):
    torch.manual_seed(0)
    box = distillation_box(EXAMPLES / f"torchdistill_{family}.yaml")
    (criterion, _) = box.criterion.term_dict["frs"]
    criterion.warmup_iters = 0
    seen = {}
    box.criterion.register_forward_pre_hook(lambda module, inputs: seen.update(io=inputs[0], model=inputs[1]))
    box.pre_epoch_process(epoch=0)
    images, targets, _ = next(iter(box.train_data_loader))
    total = box.forward_process(images, targets)
    outputs = {
        name: {path: io["output"] for path, io in seen["io"][name].items() if "output" in io}
        for name in ("student", "teacher")
    }
    teacher_feats = list(outputs["teacher"]["teacher_model.backbone"].values())
    adapted = outputs["student"]["adapter"]
    pairs = [outputs[name][f"{name}_model.{HEADS[family]}"] for name in ("student", "teacher")]
    if family == "retinanet":
        sizes = [feat.shape[-2:] for feat in teacher_feats]
        pairs = [frs.split_levels(logits, sizes, num_anchors=9) for logits in pairs]
    else:
        pairs = [output[0] for output in pairs]
    assert len(teacher_feats) == len(adapted) == len(pairs[0]) == 5
    expected = frs.reference.frs_loss(
        adapted, teacher_feats, student_logits=pairs[0], teacher_logits=pairs[1],
        feat_weight=criterion.feat_weight, head_weight=criterion.head_weight,
    )  # fmt: skip
    assert expected.head > 0
    torch.testing.assert_close(total, expected.total + sum(seen["model"].values()), rtol=1e-4, atol=0)


def test_flat_logits_are_split_by_the_sizes_of_the_features():
    student, teacher, logits, teacher_logits = levels(4, 0), levels(4, 1), levels(6, 2), levels(6, 3)
    criterion = frs_loss_of_a_configuration(feat_weight=1.0, head_weight=1.0)
    loss = criterion(kept(dict(enumerate(student)), flat(logits, 3)), kept(teacher, flat(teacher_logits, 3)))
    expected = frs.reference.frs_loss(
        student, teacher, student_logits=logits, teacher_logits=teacher_logits
    ).total
    torch.testing.assert_close(loss, expected)


def test_warm_up_counts_from_first_iter():
    student, teacher = kept(levels(4, 0), levels(6, 2)), kept(levels(4, 1), levels(6, 3))
    full = frs_loss_of_a_configuration()(student, teacher)
    criterion = frs_loss_of_a_configuration(warmup_iters=4, first_iter=1)
    for factor in (0.25, 0.5, 0.75, 1.0, 1.0):
        torch.testing.assert_close(criterion(student, teacher), factor * full)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_warm_up_counts_optimizer_steps_under_accumulation(accumulate):
    student, teacher = kept(levels(4, 0), levels(6, 2)), kept(levels(4, 1), levels(6, 3))
    full = frs_loss_of_a_configuration()(student, teacher)
    criterion = frs_loss_of_a_configuration(warmup_iters=4, first_iter=1, accumulate=accumulate)
    for factor in (0.25, 0.5, 0.75, 1.0, 1.0):
        for _ in range(accumulate):
            torch.testing.assert_close(criterion(student, teacher), factor * full)
    with pytest.raises(ValueError, match="accumulate must be at least 1 call per optimizer step, got 0"):
        frs_loss_of_a_configuration(accumulate=0)


def test_the_examples_give_the_loss_the_accumulation_of_the_box(family):
    config = load_yaml_file(str(EXAMPLES / f"torchdistill_{family}.yaml"))["train"]
    text = (EXAMPLES / f"torchdistill_{family}.yaml").read_text()
    loss = config["criterion"]["kwargs"]["sub_terms"]["frs"]["criterion"]["kwargs"]
    assert loss["accumulate"] == config["optimizer"]["grad_accum_step"]
    assert "accumulate: *accumulate" in text  # one number in the file


def test_a_wrong_keyword_raises_and_names_the_type_and_its_keywords():
    with pytest.raises(TypeError, match="FRSLoss: .*'warmup'; it takes student_features, .*warmup_iters"):
        frs_loss_of_a_configuration(warmup=3)
    student = {"student_model": torch.nn.Identity(), "features": {"path": "x"}, "device": None}
    channels = {"student_channels": 4, "teacher_channels": 4, "num_levels": 5}
    with pytest.raises(TypeError, match="FRSStudent: .*'adaptor'; it takes .*num_levels, adapter"):
        get_auxiliary_model_wrapper("FRSStudent", **student, **channels, adaptor="conv1x1")
    with pytest.raises(TypeError, match="FRSTeacher: .*'frozen'; it takes teacher_model"):
        get_auxiliary_model_wrapper("FRSTeacher", teacher_model=torch.nn.Identity(), frozen=True)


def test_features_of_other_sizes_are_resized_on_request():
    student = [torch.randn(2, 4, 2 * h, 2 * w) for h, w in SIZES]
    sources = kept(student, None), kept(levels(4, 1), levels(6, 3))
    with pytest.raises(ValueError, match="level 0: .*differ"):
        frs_loss_of_a_configuration(student_logits=None)(*sources)
    assert frs_loss_of_a_configuration(student_logits=None, resize=True)(*sources).isfinite()


def test_a_hook_on_the_shared_convolution_raises():
    feats = levels(4, 0)
    with pytest.raises(ValueError, match="logits gave 1 level.*cls_logits.*name its parent"):
        frs_loss_of_a_configuration()(kept(feats, levels(6, 2)[-1]), kept(feats, levels(6, 3)[-1]))


def test_a_path_without_a_hook_is_named():
    with pytest.raises(KeyError, match="no output of 'features' was stored: list .* forward_hook"):
        frs_loss_of_a_configuration()({}, {"features": {"output": levels(4, 0)}})


def test_the_teacher_wrapper_puts_a_training_detector_into_evaluation_mode():
    config = load_yaml_file(str(EXAMPLES / "torchdistill_retinanet.yaml"))
    teacher = config["models"]["teacher_model"].train()
    wrapper = FRSTeacher(teacher_model=teacher, device=None)
    wrapper.train()
    teacher.train()  # as a stage that freezes and unfreezes modules may do
    output = wrapper([torch.rand(3, 64, 64)])
    assert not teacher.training
    assert "boxes" in output[0]
    assert all(not p.requires_grad for p in wrapper.parameters())


def test_the_examples_batches_are_what_every_version_of_the_box_reads():
    """1.1.4 and the repository of July 2026 read entries of the third part by name; 1.1.5 does not."""
    batch = [(torch.zeros(3, 8, 8), {"boxes": None}, {"path": name}) for name in "ab"]
    images, targets, supplementary = detection_collate(batch)
    assert len(images) == len(targets) == 2
    assert supplementary == {"path": ["a", "b"]}
    assert detection_collate([(image, target, {}) for image, target, _ in batch])[2] == {}
