"""COCO metrics of known detections, also for category ids other than 1, 2, 3."""

import json
from collections import Counter

import pytest
import torch
from coco_files import annotations, content, write, write_with_images
from tiny_runs import data_of

from frs_train import distributed
from frs_train.config import DetectorConfig
from frs_train.data.coco import match_classes, read_coco
from frs_train.data.dataset import CocoDetection
from frs_train.errors import UserError
from frs_train.evaluation.coco_metrics import coco_results, describe, evaluate, summarise


@pytest.fixture
def dataset(digits):
    data = data_of(digits)
    return CocoDetection(read_coco(data.val_annotations), data.val_images)


class Oracle(torch.nn.Module):
    """Detects exactly the annotated objects, and counts the images that it gets."""

    def __init__(self, dataset):
        super().__init__()
        self.answers = {
            image.sum().item(): target for image, target in (dataset[i, None] for i in range(len(dataset)))
        }
        self.seen = Counter()
        self.config = DetectorConfig()

    def detect(self, images):
        keys = [round(image.mul(255).double().sum().item()) for image in images]
        self.seen.update(keys)
        targets = [self.answers[key] for key in keys]
        return [{**t, "scores": torch.full((len(t["labels"]),), 0.9)} for t in targets]


def test_perfect_detections_score_one(dataset):
    found = evaluate(Oracle(dataset), dataset, torch.device("cpu"), batch_size=2)
    assert found["AP"] == pytest.approx(1.0) and found["AP75"] == pytest.approx(1.0)
    assert set(found["classes"]) == set(dataset.coco.classes)


def test_shifted_boxes_score_less(dataset):
    results = []
    for index in range(len(dataset)):
        _, target = dataset[index, None]
        shifted = {**target, "boxes": target["boxes"] + 3, "scores": torch.ones(len(target["labels"]))}
        results += coco_results(shifted, int(target["image_id"]), dataset.coco.categories)
    found = summarise(dataset.coco, results)
    assert 0 < found["AP"] < 0.9 and found["AP50"] > found["AP75"]


def test_no_detections_give_a_score_of_zero(dataset):
    assert summarise(dataset.coco, [])["AP"] == 0


def found_at(coco, boxes, category=1, score=0.9):
    """Result records of image 1: boxes x, y, width, height."""
    return [{"image_id": 1, "category_id": category, "bbox": box, "score": score} for box in boxes]


def test_classes_are_scored_by_their_ids(tmp_path):
    """The order of the classes may differ between detector and file."""
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    records = annotations({"category_id": 1}, {"category_id": 2, "bbox": [100, 100, 50, 50]})
    coco = read_coco(write(tmp_path, content(categories=categories, annotations=records)))
    coco = match_classes(coco, ["cat", "dog", "zebra"], "it")
    target = {"boxes": torch.tensor([[100.0, 100, 150, 150]]), "labels": torch.tensor([1])}  # a cat
    found = summarise(coco, coco_results({**target, "scores": torch.ones(1)}, 1, coco.categories))
    assert found["classes"] == {"cat": pytest.approx(1.0), "dog": 0.0, "zebra": None}
    assert found["AP"] == pytest.approx(0.5)


def test_evaluation_counts_as_many_detections_as_the_detector(tmp_path):
    """All 200 detections of an image count if the detector's limit is 200, and half of them if it is 100."""
    boxes = [[30 * (i % 20), 40 * (i // 20), 20, 20] for i in range(200)]
    coco = read_coco(
        write_with_images(tmp_path, content(annotations=annotations(*({"bbox": box} for box in boxes))))
    )
    detector = Oracle(CocoDetection(coco, tmp_path))
    for limit, expected in ((200, 1.0), (100, 0.5)):
        detector.config = DetectorConfig(detections_per_image=limit)
        found = evaluate(detector, CocoDetection(coco, tmp_path), torch.device("cpu"))
        assert found["AP"] == pytest.approx(expected, abs=0.01) and found["AR"] == pytest.approx(expected)
        assert found["max_detections"] == limit and f"best {limit} detections" in describe(found)


def test_what_cannot_be_measured_is_none_with_and_without_detections(tmp_path):
    coco = read_coco(write(tmp_path, content(annotations=annotations({"bbox": [0, 0, 10, 10]}))))
    for results in ([], found_at(coco, [[300, 300, 200, 200]])):
        found = summarise(coco, results)
        assert found["AP"] == found["AP_S"] == 0 and found["AP_M"] is found["AP_L"] is None


def test_no_objects_give_no_score(tmp_path):
    coco = read_coco(write(tmp_path, content(annotations=[])))
    for results in ([], found_at(coco, [[0, 0, 10, 10]])):
        found = summarise(coco, results)
        assert found["AP"] is found["AR"] is found["classes"]["cat"] is None


@pytest.mark.parametrize("mark", [{"iscrowd": 1}, {"ignore": 1}])
def test_detections_of_crowds_and_ignored_boxes_are_not_mistakes(tmp_path, mark):
    records = annotations({}, {"bbox": [100, 100, 200, 200], **mark})
    coco = read_coco(write(tmp_path, content(annotations=records)))
    inside = found_at(coco, [[110, 110, 50, 50], [200, 150, 60, 60]], score=0.99)
    found = summarise(coco, inside + found_at(coco, [[1, 2, 30, 40]]))
    assert found["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_zero_is_refused(dataset, batch_size):
    with pytest.raises(UserError, match=f"--batch-size is {batch_size}"):
        evaluate(Oracle(dataset), dataset, torch.device("cpu"), batch_size=batch_size)


def test_each_image_is_counted_by_exactly_one_process(dataset, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 3)
    monkeypatch.setattr(distributed, "gather", lambda value: [value])
    seen = Counter()
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        oracle = Oracle(dataset)
        evaluate(oracle, dataset, torch.device("cpu"), batch_size=2)
        seen += oracle.seen
    assert len(seen) == len(dataset) and set(seen.values()) == {1}


def test_categories_are_matched_by_name(digits, tmp_path):
    content = json.loads((digits / "val.json").read_text())
    renumber = {c["id"]: 100 - 7 * c["id"] for c in content["categories"]}
    for category in content["categories"]:
        category["id"] = renumber[category["id"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = renumber[annotation["category_id"]]
    (tmp_path / "val.json").write_text(json.dumps(content))
    classes = read_coco(digits / "train.json").classes
    coco = match_classes(read_coco(tmp_path / "val.json"), classes, "it")
    assert coco.classes == classes
    data = CocoDetection(coco, digits / "images")
    assert evaluate(Oracle(data), data, torch.device("cpu"))["AP"] == pytest.approx(1.0)


def test_file_may_lack_classes_of_the_detector(digits):
    coco = match_classes(read_coco(digits / "val.json"), [*map(str, range(10)), "zebra"], "it")
    assert coco.classes[-1] == "zebra"
    with pytest.raises(UserError, match="'9'"):
        match_classes(coco, [*map(str, range(9)), "zebra"], "it")
