"""GFL: its losses compared with their formulas, and its assignment with a plain loop."""

import math

import pytest
import torch
from tiny_detectors import batch, seeded_on_one_thread, tiny
from torchvision.ops import box_iou, generalized_box_iou

import frs_kernels as frs
from frs_train import distributed
from frs_train.detectors import gfl, gfl_loss

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def quiet():
    with seeded_on_one_thread():
        yield


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_quality_focal_loss_matches_its_formula(beta):
    logits = torch.randn(40, dtype=DOUBLE) * 3
    quality = torch.rand(40, dtype=DOUBLE) * (torch.rand(40) > 0.5)
    found = gfl_loss.quality_focal_loss(logits, quality, beta)
    for z, y, loss in zip(logits.tolist(), quality.tolist(), found.tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        expected = -(abs(y - p) ** beta) * ((1 - y) * math.log(1 - p) + y * math.log(p))
        assert loss == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_quality_focal_loss_is_quadratic_by_default():
    found = gfl_loss.quality_focal_loss(torch.zeros(1), torch.ones(1))
    assert found.item() == pytest.approx(0.25 * math.log(2))


def test_quality_focal_loss_is_minimal_at_the_quality():
    quality = torch.tensor(0.7, dtype=DOUBLE)
    logits = torch.linspace(-4, 4, 9, dtype=DOUBLE)
    assert gfl_loss.quality_focal_loss(torch.logit(quality), quality).item() == pytest.approx(0.0, abs=1e-12)
    assert (gfl_loss.quality_focal_loss(logits, quality.expand(9)) > 1e-4).all()


def test_gradients_match_finite_differences():
    logits = torch.randn(6, dtype=DOUBLE, requires_grad=True)
    quality = torch.rand(6, dtype=DOUBLE)
    assert torch.autograd.gradcheck(lambda z: gfl_loss.quality_focal_loss(z, quality), logits)
    spread = torch.randn(5, 17, dtype=DOUBLE, requires_grad=True)
    target = torch.rand(5, dtype=DOUBLE) * 16
    assert torch.autograd.gradcheck(lambda z: gfl_loss.distribution_focal_loss(z, target), spread)


def test_distribution_focal_loss_matches_its_formula():
    logits = torch.randn(30, 17, dtype=DOUBLE)
    target = torch.cat([torch.rand(27, dtype=DOUBLE) * 16, torch.tensor([0.0, 5.0, 16.0], dtype=DOUBLE)])
    found = gfl_loss.distribution_focal_loss(logits, target)
    for row, y, loss in zip(logits, target.tolist(), found.tolist(), strict=True):
        p = (row.exp() / row.exp().sum()).tolist()
        low = min(int(y), 15)
        expected = -((low + 1 - y) * math.log(p[low]) + (y - low) * math.log(p[low + 1]))
        assert loss == pytest.approx(expected, rel=1e-9)


def test_distribution_focal_loss_is_minimal_where_the_mean_is_the_target():
    """The loss is convex, and its gradient is the distribution minus 0.7 at 6 and 0.3 at 7."""
    wanted = torch.zeros(17, dtype=DOUBLE)
    wanted[6:8] = torch.tensor([0.7, 0.3], dtype=DOUBLE)
    target = torch.tensor(6.3, dtype=DOUBLE)
    logits = (3 * torch.randn(17, dtype=DOUBLE)).requires_grad_()
    (gradient,) = torch.autograd.grad(gfl_loss.distribution_focal_loss(logits, target), logits)
    torch.testing.assert_close(gradient, logits.detach().softmax(0) - wanted)
    assert gfl_loss.expected_distance(wanted.clamp(min=1e-300).log()).item() == pytest.approx(6.3)


def test_expected_distance_of_known_distributions():
    certain = torch.full((17,), -1e4, dtype=DOUBLE)
    certain[9] = 0
    assert gfl_loss.expected_distance(torch.stack([certain, torch.zeros(17, dtype=DOUBLE)])).tolist() == [
        9.0,
        8.0,
    ]


def test_pairwise_iou_is_the_diagonal_of_box_iou():
    a, b = (torch.rand(50, 2, 2, dtype=DOUBLE).sort(1).values.flatten(1) for _ in range(2))
    torch.testing.assert_close(gfl_loss.pairwise_iou(a, b), box_iou(a, b).diagonal())
    assert gfl_loss.pairwise_iou(torch.zeros(1, 4), torch.zeros(1, 4)).tolist() == [0.0]


def loop_atss(anchors, counts, boxes, k=9):
    """Algorithm 1 of the ATSS paper, one box and one level at a time."""
    centre = lambda box: ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)  # noqa: E731
    owner, best = [-1] * len(anchors), [-1.0] * len(anchors)
    for number, box in enumerate(boxes):
        candidates, start = [], 0
        for count in counts:
            level = range(start, start + count)
            far = lambda i, box=box: math.dist(centre(anchors[i]), centre(box))  # noqa: E731
            candidates += sorted(level, key=far)[:k]
            start += count
        ious = [box_iou(anchors[i][None], box[None]).item() for i in candidates]
        mean = sum(ious) / len(ious)
        threshold = mean + math.sqrt(sum((v - mean) ** 2 for v in ious) / (len(ious) - 1))
        for i, iou in zip(candidates, ious, strict=True):
            x, y = centre(anchors[i])
            inside = box[0] < x < box[2] and box[1] < y < box[3]
            if iou >= threshold and inside and iou > best[i]:
                owner[i], best[i] = number, iou
    return owner


def pyramid(size=64):
    """Anchors of three levels over a square image, eight strides wide."""
    anchors, counts = [], []
    for stride in (8, 16, 32):
        cells = [(x, y) for y in range(0, size, stride) for x in range(0, size, stride)]
        anchors += [(x - 4 * stride, y - 4 * stride, x + 4 * stride, y + 4 * stride) for x, y in cells]
        counts.append(len(cells))
    return torch.tensor(anchors, dtype=DOUBLE), counts


@pytest.mark.parametrize("seed", range(5))
def test_assignment_matches_the_algorithm_of_the_paper(seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(4, 2, generator=generator, dtype=DOUBLE) * 30
    boxes = torch.cat([corner, corner + 9 + 25 * torch.rand(4, 2, generator=generator, dtype=DOUBLE)], dim=1)
    anchors, counts = pyramid()
    found = gfl_loss.atss_assign(anchors, counts, boxes).tolist()
    assert found == loop_atss(anchors, counts, boxes)
    assert set(found) > {-1}, "nothing was assigned"


def test_assignment_without_boxes_is_background():
    anchors, counts = pyramid()
    assert gfl_loss.atss_assign(anchors, counts, torch.zeros(0, 4, dtype=DOUBLE)).eq(-1).all()


def test_coder_inverts_itself_within_its_range():
    coder = gfl.DistributionCoder()
    anchors = torch.tensor([[-32.0, -32, 32, 32], [0, 0, 128, 128]], dtype=DOUBLE)
    boxes = torch.tensor([[-20.0, -9, 31, 17], [11, 20, 200, 100]], dtype=DOUBLE)
    sides = coder.encode_single(boxes, anchors)
    torch.testing.assert_close(sides[0], torch.tensor([20.0, 9, 31, 17], dtype=DOUBLE) / 8)
    low = sides.floor().long()
    certain = torch.full((2, 4, 17), -1e4, dtype=DOUBLE)
    certain.scatter_(2, low[..., None], (1 - (sides - low)).clamp(min=1e-12).log()[..., None])
    certain.scatter_(2, low[..., None] + 1, (sides - low).clamp(min=1e-12).log()[..., None])
    torch.testing.assert_close(coder.decode_single(certain.flatten(1), anchors), boxes, atol=1e-6, rtol=0)


def test_losses_of_the_detector_match_their_formulas():
    """The losses of a batch, computed from assignment and formulas in float64."""
    detector = tiny("gfl", anchor_size=16).double()
    images, targets = batch()
    prepared, targets = detector.prepare([i.double() for i in images], targets, 64)
    feats = detector.features(prepared)
    head = detector.run_head(feats)
    anchors = detector.anchor_generator(prepared, [feat.float() for feat in feats])
    counts = [feat[0, 0].numel() for feat in feats]
    zero_based = [{**t, "labels": t["labels"] - 1} for t in targets]
    found = detector.model.compute_loss(zero_based, head, anchors, counts)

    quality, box, spread, total, positives = 0.0, 0.0, 0.0, 0.0, 0
    for image, target in enumerate(zero_based):
        logits = head["cls_logits"][image].detach().double()
        wanted = torch.zeros_like(logits)
        owners = gfl_loss.atss_assign(anchors[image], counts, target["boxes"])
        for place in (owners >= 0).nonzero().flatten().tolist():
            truth = target["boxes"][owners[place]][None].double()
            anchor = anchors[image][place][None].double()
            rows = head["bbox_regression"][image, place].detach().double()
            predicted = detector.model.box_coder.decode_single(rows[None], anchor)
            weight = logits[place].sigmoid().max()
            wanted[place, target["labels"][owners[place]]] = box_iou(predicted, truth).item()
            sides = detector.model.box_coder.encode_single(truth, anchor)[0]
            box += weight * (1 - generalized_box_iou(predicted, truth).item())
            spread += weight * gfl_loss.distribution_focal_loss(rows.unflatten(0, (4, -1)), sides).sum() / 4
            total, positives = total + weight, positives + 1
        quality += gfl_loss.quality_focal_loss(logits, wanted).sum()
    assert positives > 0
    assert found["classification"].item() == pytest.approx((quality / positives).item(), rel=1e-4)
    assert found["bbox_regression"].item() == pytest.approx((2.0 * box / total).item(), rel=1e-4)
    assert found["bbox_distribution"].item() == pytest.approx((0.25 * spread / total).item(), rel=1e-4)


def outputs_of(detector, **options):
    images, targets = batch()
    with torch.no_grad():
        return detector(images, size=64, **options), detector(images, targets, size=64)


def test_edge_logits_without_targets_equal_those_of_training():
    """Both are channel-major, so that no copy is needed."""
    alone, trained = outputs_of(tiny("gfl").eval(), edges=True)
    assert [edges.shape[1] for edges in alone.edge_logits] == [4 * 17] * 5
    for one, other in zip(alone.edge_logits, trained.edge_logits, strict=True):
        torch.testing.assert_close(one, other)
        assert one.stride(1) == other.stride(1) == 1


def test_edge_logits_are_computed_only_where_they_are_needed():
    detector, runs = tiny("gfl").eval(), []
    detector.model.head.regression_head.distances.register_forward_hook(lambda *_: runs.append(1))
    alone, trained = outputs_of(detector)
    assert alone.edge_logits == [] and len(trained.edge_logits) == 5 == len(runs)
    for family in ("fcos", "faster-rcnn"):
        assert outputs_of(tiny(family).eval())[1].edge_logits == []


def test_edge_logits_are_views_of_the_head_that_gives_the_losses():
    detector, seen = tiny("gfl"), []
    detector.model.head.register_forward_hook(lambda _, __, out: seen.append(out["bbox_regression"]))
    _, trained = outputs_of(detector)
    storage = seen[0].untyped_storage().data_ptr()
    assert all(edges.untyped_storage().data_ptr() == storage for edges in trained.edge_logits)
    flat = torch.cat([edges.flatten(2).transpose(1, 2) for edges in trained.edge_logits], dim=1)
    assert torch.equal(flat, seen[0]) and len(frs.split_levels(flat, [(flat.shape[1], 1)], 1)) == 1


def test_outputs_at_some_levels():
    _, trained = outputs_of(tiny("gfl"))
    some = trained.at([3, 1])
    for name in ("feats", "cls_logits", "edge_logits"):
        assert [id(level) for level in getattr(some, name)] == [id(getattr(trained, name)[i]) for i in (3, 1)]
    assert some.masks == [] and some.losses is trained.losses


def test_divisors_are_means_over_processes(monkeypatch):
    """With two processes the divisors are means, so that the mean loss is that of the whole batch."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda v: v.add_(torch.tensor([3.0, 1.0])))
    assert distributed.mean(torch.tensor([5.0, 2.0])).tolist() == [4.0, 1.5]
