"""The digits data set: reproducible files, disjoint splits, and boxes that enclose the ink."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from frs_train.data import digits


@pytest.fixture(scope="module", params=digits.SCENES)
def made(request, tmp_path_factory):
    return make(tmp_path_factory, request.param)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return make(tmp_path_factory, "dense")[1]


def make(tmp_path_factory, scenes):
    out = tmp_path_factory.mktemp(scenes)
    paths = digits.make_digits(out, train=40, val=20, size=96, seed=3, scenes=digits.SCENES[scenes])
    return out, {split: json.loads(path.read_text()) for split, path in paths.items()}


def fingerprint(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")
    }


@pytest.mark.parametrize("scenes", digits.SCENES.values(), ids=digits.SCENES)
def test_same_seed_same_bytes_and_another_seed_other_images(tmp_path, scenes):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        digits.make_digits(tmp_path / name, train=3, val=2, size=64, seed=seed, scenes=scenes)
    first, again, other = (fingerprint(tmp_path / name) for name in "abc")
    assert first == again
    assert len(first) == 3 + 2 + 2
    assert all(first[name] != other[name] for name in first)


def test_scenes_stay_what_they_were():
    """Another draw, or another order of the draws, changes data sets that results were measured on."""
    _, photograph, shown = digits.compose("train", 0, 128, 0)
    assert photograph == "skimage/coins.png"
    assert shown == [
        (1, 471, (73, 41, 36, 64)),
        (6, 26, (1, 1, 28, 46)),
        (2, 1362, (56, 28, 24, 43)),
        (1, 471, (93, 69, 29, 51)),
    ]
    _, photographs, shown = digits.compose("val", 9, 128, 0, digits.SPARSE)
    assert photographs == "skimage/gravel.png + skimage/rocket.jpg + skimage/moon.png + skimage/moon.png"
    assert shown == [
        (6, 1449, (10, 103, 14, 19)),
        (0, 1493, (29, 10, 20, 30)),
        (6, 1481, (52, 35, 11, 20)),
    ]


@pytest.mark.parametrize("scenes", digits.SCENES.values(), ids=digits.SCENES)
def test_larger_set_extends_a_smaller_one(tmp_path, scenes):
    digits.make_digits(tmp_path / "small", train=2, val=1, size=64, seed=1, scenes=scenes)
    digits.make_digits(tmp_path / "large", train=4, val=2, size=64, seed=1, scenes=scenes)
    small, large = fingerprint(tmp_path / "small"), fingerprint(tmp_path / "large")
    images = [name for name in small if name.endswith(".png")]
    assert len(images) == 3 and all(small[name] == large[name] for name in images)


def test_no_scan_and_no_photograph_is_in_both_splits(made):
    _, splits = made
    scans = {split: {a["scan"] for a in record["annotations"]} for split, record in splits.items()}
    photographs = {
        split: {name for i in record["images"] for name in i["photograph"].split(" + ")}
        for split, record in splits.items()
    }
    assert scans["train"] and scans["val"] and not scans["train"] & scans["val"]
    for split, names in photographs.items():
        assert names and names <= set(digits.PHOTOGRAPHS[split])
    ranges = [range(*digits.SCANS[split].indices(len(digits.scans()[1]))) for split in ("train", "val")]
    assert len(ranges[0]) + len(ranges[1]) == 1797 and not set(ranges[0]) & set(ranges[1])
    assert not set(digits.PHOTOGRAPHS["train"]) & set(digits.PHOTOGRAPHS["val"])


def test_annotations_are_coco_with_the_labels_of_the_scans(made):
    out, splits = made
    labels = digits.scans()[1]
    for split, record in splits.items():
        coco = COCO(str(out / f"{split}.json"))
        assert len(coco.imgs) == len(record["images"]) and len(coco.cats) == 10
        for annotation in coco.anns.values():
            assert coco.cats[annotation["category_id"]]["name"] == str(labels[annotation["scan"]])
            x, y, width, height = annotation["bbox"]
            assert x >= 0 and y >= 0 and width > 0 and height > 0 and x + width <= 96 and y + height <= 96
            assert annotation["area"] == width * height
        for image in coco.imgs.values():
            assert Image.open(out / "images" / image["file_name"]).size == (96, 96)


def test_dense_scenes_hold_several_digits_of_useful_size(dense):
    record = dense["train"]
    heights = [a["bbox"][3] for a in record["annotations"]]
    assert np.median(heights) >= 28
    assert max(heights) > 1.5 * min(heights), "one scale only"
    assert len(heights) >= 3 * len(record["images"])
    assert len({a["category_id"] for a in record["annotations"]}) == 10


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("size", [32, 57, 128])
def test_sparse_scenes_leave_most_of_the_image_empty(split, size):
    for index in range(60):
        image, _, shown = digits.compose(split, index, size, 2, digits.SPARSE)
        assert image.size == (size, size)
        assert 1 <= len(shown) <= 3
        assert sum(digit.box[2] * digit.box[3] for digit in shown) <= 0.08 * size**2


def test_sparse_digits_are_small_and_of_several_sizes():
    scenes = [digits.compose("train", index, 128, 4, digits.SPARSE)[2] for index in range(60)]
    heights = [digit.box[3] for shown in scenes for digit in shown]
    assert 15 <= min(heights) < 20 and 28 < max(heights) <= 40
    assert {len(shown) for shown in scenes} == {1, 2, 3}
    assert {digit.digit for shown in scenes for digit in shown} == set(range(10))


def test_annotation_file_names_its_scenes(made):
    out, splits = made
    for record in splits.values():
        assert ("sparse" in record["info"]["description"]) == ("sparse" in out.name)


@pytest.mark.parametrize("scenes", digits.SCENES.values(), ids=digits.SCENES)
def test_boxes_enclose_all_that_the_digits_change(monkeypatch, scenes):
    def unpainted(canvas, ink, rng):
        rng.uniform(0, 60, 3)  # as `paint` draws, so that the rest of the scene is the same
        return canvas

    image, _, shown = digits.compose("val", 5, 128, 1, scenes)
    monkeypatch.setattr(digits, "paint", unpainted)
    empty, _, _ = digits.compose("val", 5, 128, 1, scenes)
    changed = np.abs(np.asarray(image, dtype=int) - np.asarray(empty)).max(-1)
    for x, y, width, height in (digit.box for digit in shown):
        assert changed[y : y + height, x : x + width].max() > 60
    for x, y, width, height in (digit.box for digit in shown):
        changed[y : y + height, x : x + width] = 0
    assert changed.max() == 0


def test_digits_overlap_but_do_not_hide_each_other():
    overlaps = []
    for index in range(30):
        boxes = [digit.box for digit in digits.compose("train", index, 96, 0)[2]]
        overlaps += [digits.overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert max(overlaps) <= digits.MAX_OVERLAP
    assert sum(o > 0 for o in overlaps) > 10


def test_ink_contrasts_with_the_background():
    rng = np.random.default_rng(0)
    ink = np.zeros((8, 8), dtype=np.float32)
    ink[2:6, 2:6] = 1
    for grey in (0, 100, 127, 128, 200, 255):
        canvas = np.full((8, 8, 3), grey, dtype=np.float32)
        painted = digits.paint(canvas, ink, rng)
        assert abs(painted[ink > 0].mean() - grey) >= 60
        assert np.array_equal(painted[ink == 0], canvas[ink == 0])


def test_photographs_come_from_installed_packages():
    for names in digits.PHOTOGRAPHS.values():
        assert all(min(digits.photograph(name).size) >= 200 for name in names)


@pytest.mark.parametrize("wrong", [{"train": -1}, {"val": -1}, {"seed": -2}, {"size": 16}])
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        digits.make_digits(tmp_path / "out", **{"train": 1, "val": 1, "size": 64, "seed": 0, **wrong})
    assert not (tmp_path / "out").exists()
