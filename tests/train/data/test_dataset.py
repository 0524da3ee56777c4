"""The data set of images with boxes: augmentation, labels, and annotations that are left out."""

import json

import torch
from coco_files import annotations, content, write_with_images
from tiny_runs import data_of

from frs_train.config import DataConfig
from frs_train.data.coco import read_coco
from frs_train.data.dataset import CocoDetection, augmentation


def test_augmenting_leaves_the_global_generator_alone(digits):
    data = data_of(digits)
    dataset = CocoDetection(read_coco(data.train_annotations), data.train_images, augmentation(data))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    dataset[0, 123]
    assert torch.equal(torch.rand(1), expected)


def test_boxes_follow_a_flip(digits):
    data = data_of(digits)
    coco = read_coco(data.train_annotations)
    flipped = CocoDetection(coco, data.train_images, augmentation(DataConfig(flip=1.0)))
    plain_image, plain = flipped[0, None]
    image, target = flipped[0, 1]
    width = image.shape[-1]
    assert torch.equal(image, plain_image.flip(-1))
    assert torch.equal(target["boxes"][:, [0, 2]], width - plain["boxes"][:, [2, 0]])
    assert torch.equal(target["boxes"][:, [1, 3]], plain["boxes"][:, [1, 3]])


def test_labels_are_positions_in_the_list_of_classes(digits, tmp_path):
    content = json.loads((digits / "train.json").read_text())
    known = {category["id"]: category["name"] for category in content["categories"]}
    (tmp_path / "train.json").write_text(json.dumps({**content, "categories": content["categories"][::-1]}))
    coco = read_coco(tmp_path / "train.json")
    dataset = CocoDetection(coco, digits / "images")
    for index, image in enumerate(coco.images):
        names = [coco.classes[label - 1] for label in dataset[index, None][1]["labels"]]
        assert names == [
            known[a["category_id"]] for a in content["annotations"] if a["image_id"] == image["id"]
        ]


def box_data(folder, boxes, size=(640, 480)):
    """A data set of one black image with these boxes (x, y, width, height) of class 1."""
    image = {"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}
    records = annotations(*({"bbox": box} for box in boxes))
    return read_coco(write_with_images(folder, content(images=[image], annotations=records)))


def test_training_boxes_are_clamped_to_the_image(tmp_path):
    dataset = CocoDetection(box_data(tmp_path, [[-5, -6, 100, 50], [600, 400, 100, 100]]), tmp_path)
    assert dataset[0, None][1]["boxes"].tolist() == [[0, 0, 95, 44], [600, 400, 640, 480]]


def test_crowds_and_ignored_boxes_are_not_learnt(tmp_path):
    records = annotations({"iscrowd": 1}, {"ignore": 1}, {"bbox": [5, 6, 7, 8]})
    coco = read_coco(write_with_images(tmp_path, content(annotations=records)))
    target = CocoDetection(coco, tmp_path)[0, None][1]
    assert target["boxes"].tolist() == [[5, 6, 12, 14]] and target["labels"].tolist() == [1]
