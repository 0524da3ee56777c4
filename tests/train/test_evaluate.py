"""COCO numbers of known detections, and categories whose ids are not 1, 2, 3."""

import json
from collections import Counter

import pytest
import torch
from tiny_runs import data_of

from frs_train import distributed
from frs_train.coco import read_coco
from frs_train.data import CocoDetection
from frs_train.errors import UserError
from frs_train.evaluate import coco_results, evaluate, matching, summarise


@pytest.fixture
def dataset(digits):
    data = data_of(digits)
    return CocoDetection(read_coco(data.val_annotations), data.val_images)


class Oracle(torch.nn.Module):
    """Detects what the annotations say, and counts the images it is shown."""

    def __init__(self, dataset):
        super().__init__()
        self.answers = {
            image.sum().item(): target for image, target in (dataset[i, None] for i in range(len(dataset)))
        }
        self.seen = Counter()

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
        results += coco_results(shifted, int(target["image_id"]), dataset.coco)
    found = summarise(dataset.coco, results)
    assert 0 < found["AP"] < 0.9 and found["AP50"] > found["AP75"]


def test_no_detection_scores_nothing(dataset):
    assert summarise(dataset.coco, [])["AP"] == 0


def test_every_image_is_counted_once_by_one_of_the_processes(dataset, monkeypatch):
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
    coco = matching(read_coco(tmp_path / "val.json"), classes, "it")
    assert coco.classes == classes
    data = CocoDetection(coco, digits / "images")
    assert evaluate(Oracle(data), data, torch.device("cpu"))["AP"] == pytest.approx(1.0)


def test_a_file_may_lack_classes_that_the_detector_knows(digits):
    coco = matching(read_coco(digits / "val.json"), [*map(str, range(10)), "zebra"], "it")
    assert coco.classes[-1] == "zebra"
    with pytest.raises(UserError, match="'9'"):
        matching(coco, [*map(str, range(9)), "zebra"], "it")
