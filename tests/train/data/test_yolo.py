"""YOLO data sets: what is read, and errors that name file, line and value."""

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from yolo_files import DESCRIPTION, as_yolo, write_yolo

from frs_train.data.coco import read_coco
from frs_train.data.dataset import CocoDetection
from frs_train.data.images import image_size, read_image
from frs_train.data.yolo import read_labels, read_yolo
from frs_train.errors import UserError
from frs_train.log import Log

LOG = Log(quiet=True)
BOX = "1 0.5 0.5 0.4 0.2\n"


def read(path, split="train"):
    return read_yolo(path, split, LOG)[0]


def one_image(folder, text=BOX, **changes):
    return write_yolo(folder, {"images/train/a.png": text}, {**DESCRIPTION, **changes})


def refusal(path, split="train"):
    with pytest.raises(UserError) as refused:
        read(path, split)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_boxes_are_those_of_the_same_data_in_coco(digits, tmp_path):
    coco = read_coco(digits / "train.json")
    path = as_yolo(coco, digits / "images", tmp_path, {"train": "images/train"}, "images/train")
    yolo, folder = read_yolo(path, "train", LOG)
    assert yolo.classes == coco.classes and len(yolo.images) == len(coco.images)
    names = [name.rpartition("/")[2] for name in yolo.images.names.tolist()]
    order = [coco.images.names.tolist().index(name) for name in names]
    for row, other in enumerate(order):
        mine, theirs = yolo.annotations.of(row), coco.annotations.of(other)
        np.testing.assert_allclose(yolo.annotations.bbox[mine], coco.annotations.bbox[theirs], atol=1e-4)
        np.testing.assert_array_equal(yolo.images.sizes[row], coco.images.sizes[other])
    image, target = CocoDetection(yolo, folder)[0, None]
    assert image.shape == (3, *yolo.images.sizes[0, ::-1]) and len(target["boxes"])


def test_polygon_becomes_its_box(tmp_path):
    coco = read(one_image(tmp_path, "0 0.1 0.2 0.5 0.1 0.3 0.8\n\n0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6\n"))
    np.testing.assert_allclose(coco.annotations.bbox, [[10, 5, 40, 35], [10, 10, 20, 20]])


def test_ids_of_classes_are_those_of_the_labels(tmp_path):
    coco = read(one_image(tmp_path, "7 0.5 0.5 0.4 0.2", names={7: "cat", 3: "dog"}))
    assert coco.categories == [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    assert coco.annotations.category.tolist() == [7]


def test_image_without_labels_is_background(tmp_path):
    path = write_yolo(
        tmp_path, {"images/train/a.png": BOX, "images/train/b.png": None, "images/train/c.png": ""}
    )
    coco = read(path)
    assert coco.empty == 2 and np.diff(coco.annotations.starts).tolist() == [1, 0, 0]
    assert coco.summary().startswith(f"{path} (train): 3 images, 1 boxes, 2 classes; 2 images have no boxes")


def test_box_without_area_is_dropped_and_counted(tmp_path):
    assert read(one_image(tmp_path, BOX + "0 0.5 0.5 0 0.2")).dropped == 1


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_size_is_that_of_the_upright_image(tmp_path, ending, orientation):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (30, 10)).save(path, exif=exif)
    size = image_size(path)
    assert size == ((10, 30) if orientation in (6, 8) else (30, 10))
    assert read_image(path, *size).shape == (3, size[1], size[0])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5 0.4", "has 4 numbers"),
        ("0 0.5 0.5 0.4 0.2 0.9", "has 6 numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "has 8 numbers"),
        ("0", "has 1 numbers"),
        ("2 0.5 0.5 0.4 0.2", "has the class 2. The YAML file names the classes 0 to 1."),
        ("-1 0.5 0.5 0.4 0.2", "has the class -1."),
        ("0.5 0.5 0.5 0.4 0.2", "has the class 0.5."),
        ("nan 0.5 0.5 0.4 0.2", "has the class nan."),
        ("0 320 0.5 0.4 0.2", "has the coordinate 320."),
        ("0 0.5 0.5 -0.4 0.2", "has the coordinate -0.4."),
        ("0 0.5 0.5 0.4 nan", "has the coordinate nan."),
        ("0 0.1 0.1 0.2 0.2 0.3 1e999", "has the coordinate 1e999."),
        ("cat 0.5 0.5 0.4 0.2", "has something else than numbers: 'cat 0.5 0.5 0.4 0.2'"),
        ("0,0.5,0.5,0.4,0.2", "has something else than numbers"),
    ],
)
def test_wrong_line_is_named(tmp_path, line, words):
    one_image(tmp_path, f"{BOX}\n{line}\n")
    message = refusal(tmp_path / "data.yaml")
    assert f"{tmp_path}/labels/train/a.txt, line 3 {words}" in message


def test_coordinates_may_be_rounded_beyond_the_edge(tmp_path):
    coco = read(one_image(tmp_path, "0 0.5 0.5 1.000001 1\n0 -0.0001 0 1.001 0 1 1"))
    assert coco.annotations.boxes.tolist() == [[0, 0, 100, 50], [0, 0, 100, 50]]


def test_labels_that_are_not_text(tmp_path):
    one_image(tmp_path)
    (tmp_path / "labels/train/a.txt").write_bytes(b"0 \xff\xfe")
    assert "a.txt are not text in UTF-8" in refusal(tmp_path / "data.yaml")


def test_split_without_any_labels(tmp_path):
    message = refusal(one_image(tmp_path, None))
    assert "none of its 1 images has a file of labels" in message and "labels/train/a.txt" in message


def test_damaged_image_is_named(tmp_path):
    one_image(tmp_path)
    (tmp_path / "images/train/a.png").write_bytes(b"nothing")
    assert "images/train/a.png cannot be read" in refusal(tmp_path / "data.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": None}, '"names": None. It must be a list'),
        ({"names": []}, '"names": []'),
        ({"names": "cat"}, "\"names\": 'cat'"),
        ({"names": ["cat", True]}, 'the class 1: True in "names"'),
        ({"names": {"x": "cat"}}, "the class 'x': 'cat' in \"names\""),
        ({"names": ["cat", ["dog"]]}, "the class 1: ['dog']"),
        ({"names": ["cat", "cat"]}, "are both called 'cat'"),
        ({"nc": 3}, '"nc": 3, but names 2 classes'),
        ({"train": None}, "has no 'train'"),
        ({"train": 3}, '"train": 3. It must be a folder'),
        ({"train": "images/other"}, "\"train\": 'images/other', which does not exist. Looked for"),
        ({"train": ["images/train", 1]}, '"train": 1. It must be a folder'),
        ({"train": "."}, None),
        ({"train": "labels"}, "(train) has no images: looked in labels"),
        ({"kpt_shape": [17, 3]}, "has key points"),
    ],
)
def test_wrong_description_is_named(tmp_path, changes, words):
    both = "0 0.5 0.5 0.4 0.2\n1 0.5 0.5 0.4 0.2"
    path = one_image(tmp_path, both, **changes)
    if words is None:
        assert len(read(path).images) == 1
    else:
        message = refusal(path)
        assert message.startswith(str(path)) and words in message


@pytest.mark.parametrize("text", ["names: [a", "- a\n- b", "", "3", "a: *b", "\x00"])
def test_file_that_is_not_a_description(tmp_path, text):
    one_image(tmp_path).write_text(text)
    assert refusal(tmp_path / "data.yaml").startswith(f"{tmp_path}/data.yaml is not")


@pytest.mark.parametrize(
    ("root", "entry"),
    [
        (None, "images/train"),
        (None, "../images/train"),
        (".", "./images/train"),
        ("../elsewhere", "images/train"),
        ("..", "data/images/train"),
        (None, ["images/train"]),
        (None, "train.txt"),
        (None, "@/images/train"),
    ],
)
def test_places_of_the_images(tmp_path, root, entry):
    """`path` may be that of another machine; Roboflow writes one `../` too many; `@` is absolute."""
    folder = tmp_path / "data"
    entry = entry.replace("@", str(folder)) if isinstance(entry, str) else entry
    path = one_image(folder, train=entry, **({"path": root} if root else {}))
    (folder / "train.txt").write_text("./images/train/a.png\n\n")
    coco, base = read_yolo(path, "train", LOG)
    assert coco.images.names.tolist() == ["images/train/a.png"] and base == folder
    assert len(CocoDetection(coco, base)[0, None][1]["boxes"]) == 1


def test_list_with_a_missing_image(tmp_path):
    path = one_image(tmp_path, train="train.txt")
    (tmp_path / "train.txt").write_text("images/train/a.png\nimages/train/b.png\n")
    assert f"train.txt, line 2: there is no image {tmp_path}/images/train/b.png" in refusal(path)


def test_labels_may_be_beside_the_images(tmp_path):
    path = write_yolo(tmp_path / "images", {"train/a.png": BOX}, {**DESCRIPTION, "train": "train"})
    assert len(read(path).annotations.bbox) == 1


def test_names_of_the_validation_split(tmp_path):
    path = write_yolo(
        tmp_path, {"valid/images/a.png": BOX}, {"valid": "../valid/images", "names": ["a", "b"]}
    )
    assert len(read(path, "val").annotations.bbox) == 1
    assert "has no 'test'" in refusal(path, "test")


LINES = st.lists(
    st.lists(st.sampled_from(["0", "1", "2", "0.5", "1.5", "-1", "nan", "x", "9" * 400]), max_size=10),
    max_size=4,
)


@given(lines=LINES)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_are_read_or_refused(tmp_path, lines):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(" ".join(words) for words in lines))
    try:
        found = list(read_labels(path, {0, 1}))
    except UserError as refused:
        assert str(path) in str(refused) and "\n" not in str(refused)
    else:
        assert len(found) == sum(map(bool, lines))
        assert all(category in (0, 1) and np.isfinite(box).all() for category, box in found)


YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(data=st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_description_raises_only_refusals(tmp_path, data):
    description = {
        **DESCRIPTION,
        data.draw(st.sampled_from(["path", "train", "names", "nc", "kpt_shape"])): data.draw(YAML),
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(description))
    with pytest.raises(UserError) as refused:  # there is no image
        read(tmp_path / "data.yaml")
    assert "\n" not in str(refused.value)
