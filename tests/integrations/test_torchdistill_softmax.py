"""torchdistill's own losses of softmax distributions against weighted_kl, and FRSKLLoss in its registry."""

import re
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import frs_kernels as frs

pytest.importorskip("torchdistill", reason="needs torchdistill (pip install torchdistill)")

from published_losses import DOCS, levels, same  # noqa: E402
from torchdistill.losses.registry import get_mid_level_loss  # noqa: E402

from frs_kernels.integrations.torchdistill import FRSKLLoss  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"
PATHS = {"student_module_path": "fc", "teacher_module_path": "fc"}
PATHS |= {"student_module_io": "output", "teacher_module_io": "output"}


def theirs(key: str, student: Tensor, teacher: Tensor, targets: Tensor | None = None, **kwargs) -> Tensor:
    """A loss of torchdistill as its training box builds and calls it."""
    try:
        loss = get_mid_level_loss({"key": key, "kwargs": PATHS | kwargs})
    except ValueError:
        pytest.skip(f"this torchdistill has no {key}")
    return loss({"fc": {"output": student}}, {"fc": {"output": teacher}}, targets)


def logits(seed: int) -> Tensor:
    """Of 7 images and 12 classes."""
    return torch.randn(7, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def student() -> Tensor:
    return logits(0).requires_grad_()


@pytest.fixture
def teacher() -> Tensor:
    return logits(1)


@pytest.mark.parametrize("alpha, beta", [(0.5, None), (0.3, 2.0)])
def test_kd_loss(student, teacher, alpha, beta):
    """alpha times the loss of the labels, and beta (1 - alpha by default) times the divergence."""
    targets = torch.arange(7)
    expected = theirs("KDLoss", student, teacher, targets, temperature=4.0, alpha=alpha, beta=beta)
    scale = 1 - alpha if beta is None else beta
    soft = frs.weighted_kl(student[..., None], teacher[..., None], temperature=4.0, scale=scale)
    same(alpha * F.cross_entropy(student, targets) + soft, expected, [student])


def test_kd_loss_without_labels_leaves_out_the_factor(student, teacher):
    expected = theirs("KDLoss", student, teacher, temperature=4.0, alpha=0)
    soft = frs.weighted_kl(student[..., None], teacher[..., None], temperature=4.0, scale=1 / 16)
    same(soft, expected, [student])


@pytest.mark.parametrize("reduction, normalizer", [("batchmean", "batch"), ("sum", 1.0)])
def test_kd_loss_of_every_location(reduction, normalizer):
    """As for a segmentation network."""
    s, t = levels(0)[0].requires_grad_(), levels(1)[0]
    options = {"alpha": 0, "beta": 1.0, "reduction": reduction}
    expected = theirs("KDLoss", s, t, temperature=2.0, **options)
    same(frs.weighted_kl(s, t, temperature=2.0, normalizer=normalizer, scale=1 / 4), expected, [s])


def test_logit_standardization(student, teacher):
    expected = theirs("LogitStdKDLoss", student, teacher, temperature=2.0, alpha=0, beta=9.0)

    def normed(z: Tensor) -> Tensor:
        return (z - z.mean(1, keepdim=True)) / (1e-7 + z.std(1, keepdim=True))

    soft = frs.weighted_kl(
        normed(student)[..., None], normed(teacher)[..., None], temperature=2.0, scale=1 / 4
    )
    same(soft, expected, [student])


def test_streamlined_kd_of_instances(student, teacher):
    """The images about which the teacher is less sure than the median, divided by the number of all."""
    expected = theirs("SKDInstanceLoss", student, teacher, temperature=4.0, mode="code")
    sureness = teacher.softmax(1).amax(1)
    unsure = sureness <= sureness.quantile(0.5)
    ours = frs.weighted_kl(
        student[..., None], teacher[..., None], unsure[:, None], temperature=4.0, normalizer="batch"
    )
    same(ours, expected, [student])


def kl_loss_of_a_configuration(**kwargs) -> FRSKLLoss:
    sources = {name: {"path": "fc", "io": "output"} for name in ("student", "teacher")}
    return get_mid_level_loss({"key": "FRSKLLoss", "kwargs": sources | kwargs})


def test_the_registered_loss_is_the_soft_part_of_kd_loss(student, teacher):
    criterion = kl_loss_of_a_configuration(temperature=4.0, scale=1 / 16)
    expected = theirs("KDLoss", student, teacher, temperature=4.0, alpha=0)
    same(criterion({"fc": {"output": student}}, {"fc": {"output": teacher}}, None), expected, [student])
    s, t = levels(0)[0].requires_grad_(), levels(1)[0]
    criterion = kl_loss_of_a_configuration(temperature=4.0, scale=1 / 16, normalizer="batch")
    ours = criterion({"fc": {"output": s}}, {"fc": {"output": t}}, None)
    same(ours, theirs("KDLoss", s, t, temperature=4.0, alpha=0), [s])


@pytest.mark.parametrize("options", [{"over": "locations"}, {"groups": 3, "normalizer": "numel"}], ids=str)
def test_the_registered_loss_of_a_pyramid(options):
    """A dict of levels, as torchvision's pyramids return them."""
    student, teacher = [s.requires_grad_() for s in levels(0)], levels(1)
    criterion = kl_loss_of_a_configuration(temperature=2.0, **options)
    stored = ({"fc": {"output": dict(enumerate(feats))}} for feats in (student, teacher))
    expected = frs.reference.weighted_kl(student, teacher, temperature=2.0, **options)
    same(criterion(*stored, None), expected, student)


def test_a_wrong_keyword_raises_and_names_the_type_and_its_keywords():
    with pytest.raises(TypeError, match="FRSKLLoss: .*'tau'; it takes student, teacher, over, groups, temp"):
        kl_loss_of_a_configuration(tau=3.0)


def test_a_path_without_a_hook_is_named():
    with pytest.raises(KeyError, match="no output of 'fc' was stored: list .* forward_hook"):
        kl_loss_of_a_configuration()({}, {"fc": {"output": logits(0)}})


def test_flat_logits_are_refused():
    """torchvision's [B, sum(H * W * A), K] would be read as channels of K locations."""
    flat = {"fc": {"output": torch.randn(2, 30, 4)}}
    with pytest.raises(ValueError, match=r"level 0: logits \[2, 30, 4\] must be \[N, C\] or \[B, C, H, W\]"):
        kl_loss_of_a_configuration()(flat, flat)


def test_the_configuration_of_the_docs_in_a_training_box(tmp_path):
    pytest.importorskip("torchvision", reason="needs torchvision (pip install torchvision)")
    from torchdistill_detection import distillation_box, train

    (term,) = re.findall(r"^```yaml\n(cwd:.*?)^```", DOCS.read_text(), flags=re.DOTALL | re.MULTILINE)
    file = tmp_path / "cwd.yaml"
    sub_terms = (EXAMPLES / "torchdistill_retinanet.yaml").read_text()  # it ends with them
    file.write_text(sub_terms + textwrap.indent(term, " " * 8))
    torch.manual_seed(0)
    box = distillation_box(file)
    criterion, weight = box.criterion.term_dict["cwd"]
    seen = []
    box.criterion.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert all(torch.tensor(train(box)).isfinite()) and weight == 10.0
    student, teacher = seen[0]["student"]["adapter"]["output"], seen[0]["teacher"]["teacher_model.backbone"]
    expected = frs.reference.weighted_kl(student, list(teacher["output"].values()), over="locations")
    torch.testing.assert_close(criterion(seen[0]["student"], seen[0]["teacher"], None), expected)
