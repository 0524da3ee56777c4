"""The official implementation's arithmetic, written from its description, compared with one call.

The official detectors (one-stage: the class logits of the dense head; two-stage: the objectness logits of
the proposal network) loop over the levels of the pyramid. At each level the mask is the largest of the
teacher's class probabilities, a constant; squared differences of the features and the binary cross-entropy
of the two probabilities are multiplied by it, summed, and divided by its sum. Both sums over the levels are
multiplied by their weights, and by iteration / 500 during the first 500 iterations.
"""

import pytest
import torch
import torch.nn.functional as F

import frs_kernels as frs

SIZES = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)]
# detector -> (anchors x classes, feature weight, head weight)
RECIPES = {
    "retinanet": (9 * 8, 0.005, 0.02),
    "fcos": (8, 0.01, 0.05),
    "gfl": (8, 0.1, 0.05),
    "faster_rcnn": (3, 0.002, 0.1),
}


class Head:
    """The output of a dense head or RPN head of MMDetection: (class scores, boxes), lists of levels."""

    def __init__(self, channels: int, seed: int):
        random = torch.Generator().manual_seed(seed)
        self.scores = [2 * torch.randn(2, channels, *size, generator=random) for size in SIZES]
        self.boxes = [torch.randn(2, 4, *size, generator=random) for size in SIZES]

    def __call__(self):
        return self.scores, self.boxes


def pyramid(seed: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 16, *size, generator=random) for size in SIZES]


def official(student_head, teacher_head, adapted, teacher_feats, feat_weight, head_weight, iteration):
    """(feature loss, head loss) of one iteration, level by level, in probabilities."""
    warmup = min(iteration / 500, 1.0)
    feature = head = 0.0
    for level, student_scores in enumerate(student_head()[0]):
        student_prob = torch.sigmoid(student_scores)
        teacher_prob = torch.sigmoid(teacher_head()[0][level])
        mask = teacher_prob.max(dim=1, keepdim=True).values.detach()
        squares = (teacher_feats[level] - adapted[level]) ** 2
        entropy = F.binary_cross_entropy(student_prob, teacher_prob, reduction="none")
        feature = feature + (squares * mask).sum() / mask.sum()
        head = head + (entropy * mask).sum() / mask.sum()
    return warmup * feat_weight * feature, warmup * head_weight * head


def with_gradients(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.clone().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("iteration", [0, 125, 500, 9000])
@pytest.mark.parametrize("recipe", RECIPES)
def test_frs_loss_replaces_the_loop_over_levels(recipe, iteration):
    channels, feat_weight, head_weight = RECIPES[recipe]
    student_head, teacher_head, y = Head(channels, 0), Head(channels, 1), pyramid(2)
    results = []
    for ours in (False, True):
        student_head.scores = with_gradients(Head(channels, 0).scores)
        x = with_gradients(pyramid(3))
        if ours:
            warmup = min(iteration / 500, 1.0)
            loss = frs.frs_loss(
                x, y, student_logits=student_head()[0], teacher_logits=teacher_head()[0],
                feat_weight=warmup * feat_weight, head_weight=warmup * head_weight,
            )  # fmt: skip
            feature, head, total = loss.feature, loss.head, loss.total
        else:
            feature, head = official(student_head, teacher_head, x, y, feat_weight, head_weight, iteration)
            total = feature + head
        total.backward()
        results.append((feature, head, [t.grad for t in x + student_head.scores]))
    (their_feature, their_head, their_grads), (our_feature, our_head, our_grads) = results
    torch.testing.assert_close(our_feature, their_feature, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(our_head, their_head, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(our_grads, their_grads, rtol=1e-4, atol=1e-8)


def test_distillation_loss_module_is_the_official_method_with_its_adapters_and_warm_up():
    """FRSDistillationLoss at its defaults: 3x3 adapters, RetinaNet's weights, 500 iterations."""
    channels = RECIPES["retinanet"][0]
    student_head, teacher_head, x, y = Head(channels, 0), Head(channels, 1), pyramid(3), pyramid(2)
    criterion = frs.FRSDistillationLoss(16, 16, len(SIZES)).train()
    for iteration in (0, 1, 2, 499, 500, 501):
        criterion.set_step(iteration)
        loss = criterion(x, y, student_logits=student_head()[0], teacher_logits=teacher_head()[0])
        expected = official(student_head, teacher_head, criterion.adapter(x), y, 0.005, 0.02, iteration)
        torch.testing.assert_close((loss.feature, loss.head), expected, rtol=1e-5, atol=1e-9)


def test_saturated_logits_keep_the_gradient_that_the_official_code_loses():
    """Its cross-entropy of probabilities saturates where the student is confident and wrong."""
    student, teacher = torch.full((1, 1, 1, 1), 120.0), torch.full((1, 1, 1, 1), -2.0)
    student.requires_grad_()
    F.binary_cross_entropy(student.sigmoid(), teacher.sigmoid()).backward()
    assert student.grad == 0
    student.grad = None
    loss = frs.frs_loss(None, None, student_logits=student, teacher_logits=teacher).head
    loss.backward()
    torch.testing.assert_close(loss.detach(), 120.0 * (1 - teacher.sigmoid()).squeeze())
    torch.testing.assert_close(student.grad, 1 - teacher.sigmoid())
