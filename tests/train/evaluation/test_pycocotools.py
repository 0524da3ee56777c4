"""The COCO metrics are those of pycocotools, whose numbers papers report."""

import contextlib
import io

import pytest
import torch
from coco_files import content, write
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_runs import data_of

from frs_train.data.coco import read_coco
from frs_train.data.dataset import CocoDetection
from frs_train.evaluation.coco_metrics import METRICS, coco_results, summarise

SUMMARY = [0, 1, 2, 3, 4, 5, 8]  # where `METRICS` are in the summary of pycocotools


def api(coco, records):
    made = COCO()
    made.dataset = {"images": list(coco.images), "categories": coco.categories, "annotations": records}
    made.createIndex()
    return made


def evaluated(coco, results, limit=None):
    """pycocotools' evaluation of result records; `limit` replaces its limits of detections per image."""
    truth = [record for records in coco.by_image.values() for record in records]
    found = [
        {**r, "id": row, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0}
        for row, r in enumerate(results, 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(api(coco, truth), api(coco, found), "bbox")
        evaluation.params.maxDets = [limit] if limit else evaluation.params.maxDets
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def mean(values):
    values = values[values > -1]
    return values.mean() if values.size else None


def by_pycocotools(coco, results, limit):
    evaluation = evaluated(coco, results, limit)
    precision, recall = (evaluation.eval[name][..., 0] for name in ("precision", "recall"))
    overall = precision[..., 0]
    found = [mean(overall), mean(overall[0]), mean(overall[5])]  # IoU from 0.5 in steps of 0.05
    found += [mean(precision[..., area]) for area in (1, 2, 3)]
    columns = {number: overall[..., k] for k, number in enumerate(evaluation.params.catIds)}
    return {
        **dict(zip(METRICS, [*found, mean(recall[..., 0])], strict=True)),
        "classes": {c["name"]: mean(columns[c["id"]]) for c in coco.categories},
    }


def same(value, expected):
    """Equal up to the sums' order. pycocotools adds 2e-16 to a divisor."""
    return value is None if expected is None else value == pytest.approx(expected, rel=1e-12, abs=1e-12)


# Sides at the limits of the areas (32 and 96), few scores (many are equal), and ids that float64 rounds.
IDS = st.integers(-3, 9) | st.integers(2**60, 2**60 + 3)
SIDES = st.sampled_from([3, 20, 31, 32, 33, 95, 96, 97, 200])
BOXES = st.tuples(st.integers(0, 90), st.integers(0, 90), SIDES, SIDES).map(list)
SCORES = st.sampled_from([0.0, 0.1, 0.5, 0.9]) | st.floats(0, 1, width=32)
MARKS = st.sampled_from([{}, {}, {}, {"iscrowd": 1}, {"ignore": 1}])
AREAS = st.sampled_from([{}, {"area": 1024.0}, {"area": 9216.0}, {"area": 700.5}])


@st.composite
def evaluations(draw):
    """The content of an annotation file, and result records of which most are near an annotated box."""
    images = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
    categories = draw(st.lists(IDS, min_size=1, max_size=3, unique=True))
    owner, kind = st.sampled_from(images), st.sampled_from(categories)
    keys = ("image_id", "category_id", "bbox")
    truth = [
        {**dict(zip(keys, key, strict=True)), **marks, **area}
        for *key, marks, area in draw(st.lists(st.tuples(owner, kind, BOXES, MARKS, AREAS), max_size=8))
    ]
    anywhere = st.tuples(owner, kind, BOXES)
    near = st.sampled_from([tuple(r[key] for key in keys) for r in truth]) if truth else anywhere
    shift = st.lists(st.sampled_from([0, 0, 0, 1, 2, 5, -1]), min_size=4, max_size=4)
    found = [
        {
            **dict(zip(keys, key, strict=True)),
            "bbox": [float(a + b) for a, b in zip(key[-1], moved, strict=True)],
            "score": score,
        }
        for key, moved, score in draw(st.lists(st.tuples(near | anywhere, shift, SCORES), max_size=20))
    ]
    lists = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 300, "height": 300} for i in images],
        "categories": [{"id": c, "name": str(c)} for c in categories],
        "annotations": truth,
    }
    return lists, found


@settings(max_examples=80)
@given(evaluations(), st.sampled_from([1, 2, 5, 100, 1000]))
def test_metrics_equal_those_of_pycocotools(tmp_path, case, limit):
    lists, results = case
    coco = read_coco(write(tmp_path, content(**lists)))
    found, expected = summarise(coco, results, limit), by_pycocotools(coco, results, limit)
    assert [name for name in METRICS if not same(found[name], expected[name])] == []
    assert found["classes"].keys() == expected["classes"].keys()
    assert [c for c in found["classes"] if not same(found["classes"][c], expected["classes"][c])] == []


def test_order_of_the_ids_decides_between_equal_scores(tmp_path):
    """One of two detections with the same score is right: that in the image with the lower id comes first."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 300, "height": 300} for i in (7, 3)]
    truth = [{"image_id": i, "category_id": 1, "bbox": [10, 10, 40, 40]} for i in (7, 3)]
    coco = read_coco(write(tmp_path, content(images=images, annotations=truth)))
    found = {}
    for right, wrong in ((3, 7), (7, 3)):
        boxes = {right: [10.0, 10.0, 40.0, 40.0], wrong: [200.0, 200.0, 40.0, 40.0]}
        results = [{"image_id": i, "category_id": 1, "bbox": box, "score": 0.5} for i, box in boxes.items()]
        found[right] = summarise(coco, results)["AP"]
        assert same(found[right], by_pycocotools(coco, results, 100)["AP"])
    assert found[3] > 1.9 * found[7] > 0


def test_metrics_equal_the_summary_of_pycocotools(digits):
    data = data_of(digits)
    dataset = CocoDetection(read_coco(data.val_annotations), data.val_images)
    random = torch.Generator().manual_seed(0)
    results = []
    for index in range(len(dataset)):
        _, target = dataset[index, None]
        for _ in range(3):
            boxes = target["boxes"] + torch.randint(-6, 7, target["boxes"].shape, generator=random)
            scores = torch.rand(len(boxes), generator=random)
            moved = {"boxes": boxes, "scores": scores, "labels": target["labels"]}
            results += coco_results(moved, int(target["image_id"]), dataset.coco.categories)
    found = summarise(dataset.coco, results)
    reference = evaluated(dataset.coco, results)
    with contextlib.redirect_stdout(io.StringIO()):
        reference.summarize()
    expected = [value if value >= 0 else None for value in reference.stats[SUMMARY]]
    assert 0 < expected[0] < 1
    assert [n for n, value in zip(METRICS, expected, strict=True) if not same(found[n], value)] == []
