"""Annotation files: what is read, and errors that name record, field and value."""

import json

import numpy as np
import pytest
from coco_files import CONTENT, annotations, content, write
from hypothesis import given, settings
from hypothesis import strategies as st

from frs_train.data.annotation_file import LONGEST_SIDE
from frs_train.data.coco import clamped, read_coco
from frs_train.errors import UserError


def read_with(folder, kind, field, value):
    """Reads a file in which a field of the first record of a kind has this value, given as JSON text."""
    text = json.dumps({**CONTENT, kind: [{**CONTENT[kind][0], field: "@"}]}).replace('"@"', value)
    path = folder / "data.json"
    path.write_text(text, encoding="utf-8")
    return read_coco(path)


@pytest.mark.parametrize("field", ["iscrowd", "ignore"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [("null", 0), ('"0"', 0), ("0.0", 0), ("false", 0), ("1", 1), ('"1"', 1), ("true", 1), ("1.0", 1)],
)
def test_flags_are_read_in_every_notation(tmp_path, field, value, expected):
    coco = read_with(tmp_path, "annotations", field, value)
    assert coco.by_image[1][0]["iscrowd"] == expected
    assert coco.annotations.learnt.tolist() == [not expected]


@pytest.mark.parametrize(("value", "expected"), [("null", 1200), ("0", 1200), ('"7.5"', 7.5), ("7", 7)])
def test_missing_area_is_that_of_the_box(tmp_path, value, expected):
    assert read_with(tmp_path, "annotations", "area", value).annotations.area.tolist() == [expected]


@pytest.mark.parametrize("value", ["640.0", '"640"', "6.4e2"])
def test_sizes_are_read_in_every_notation(tmp_path, value):
    assert read_with(tmp_path, "images", "width", value).images[0]["width"] == 640


def test_box_coordinates_may_be_text(tmp_path):
    coco = read_with(tmp_path, "annotations", "bbox", '["1", 2.5, "3e1", 40]')
    assert coco.annotations.bbox.tolist() == [[1, 2.5, 30, 40]]


def test_class_name_may_be_a_number(tmp_path):
    assert read_with(tmp_path, "categories", "name", "3").classes == ["3"]


@pytest.mark.parametrize("value", ["null", "[]", '"x"', "3", "{}", "[[1e999]]", '{"counts": null}'])
@pytest.mark.parametrize("field", ["segmentation", "id", "keypoints"])
def test_unused_fields_may_have_any_content(tmp_path, field, value):
    assert len(read_with(tmp_path, "annotations", field, value).by_image[1]) == 1


@pytest.mark.parametrize(
    ("kind", "field", "values", "expected"),
    [
        ("annotations", "iscrowd", ["2", "-1", '"maybe"', "[]", "{}", '""', "NaN", "0.5"], "0 or 1"),
        ("annotations", "ignore", ["2", '"x"', "[0]"], "0 or 1"),
        ("annotations", "area", ["-1", "NaN", "1e999", "[]", "true", '"x"', "9" * 400], "0 or more"),
        ("annotations", "bbox", ["null", "[]", "[1,2,3]", "[1,2,3,4,5]", "[1,2,3,null]"], "four numbers"),
        ("annotations", "bbox", ["[1,2,3,true]", '"1,2,3,4"', "{}", "[[1],2,3,4]"], "four numbers"),
        ("annotations", "image_id", ["null", "[1]", "9223372036854775808", '"x"', "1.5"], "64 bits"),
        ("annotations", "category_id", ["null", "{}", "-9223372036854775809", "true"], "64 bits"),
        ("images", "id", ["[1]", "9223372036854775808", "null", "true", "1e30"], "64 bits"),
        (
            "images",
            "width",
            ["0", "-3", "640.5", "true", "null", "1000001", "1e300", "[640]"],
            "1 to 1000000",
        ),
        ("images", "height", ["0", "NaN", '"480 px"'], "1 to 1000000"),
        ("images", "file_name", ["null", '""', r'"a\u0000.png"', "[]", "true"], "NUL"),
        ("categories", "id", ['"x"', "[[]]", "9" * 40], "64 bits"),
        ("categories", "name", ["null", '""', "{}", "false"], "text"),
    ],
)
def test_wrong_values_are_refused_and_named(tmp_path, kind, field, values, expected):
    noun = {"annotations": "annotation", "images": "image", "categories": "category"}[kind]
    for value in values:
        with pytest.raises(UserError) as error:
            read_with(tmp_path, kind, field, value)
        message = str(error.value)
        assert f"data.json: {noun} 0 (id " in message and f'"{field}": ' in message, value
        assert expected in message, value


def test_missing_field_is_named(tmp_path):
    data = content(annotations=[{"id": 5, "image_id": 1, "category_id": 1}])
    with pytest.raises(UserError, match=r'annotation 0 \(id 5\) has no "bbox". It must be four numbers'):
        read_coco(write(tmp_path, data))


@pytest.mark.parametrize("data", [b"[1]", b"12", b"null", b'{"images": 3}', b'{"images": [3]}', b"[" * 9999])
def test_content_that_is_not_coco_is_refused(tmp_path, data):
    (tmp_path / "data.json").write_bytes(data)
    with pytest.raises(UserError, match=r"data\.json"):
        read_coco(tmp_path / "data.json")


def test_two_records_with_the_same_id_are_refused(tmp_path):
    for kind, noun in (("images", "image"), ("categories", "category")):
        with pytest.raises(UserError, match=f"two {noun} records, 0 and 1, have the id 1"):
            read_coco(write(tmp_path, content(**{kind: CONTENT[kind] * 2})))


def test_annotation_ids_are_optional(tmp_path):
    records = annotations({"id": 3}, {"id": 3}, {"id": None})
    coco = read_coco(write(tmp_path, content(annotations=records)))
    assert len(coco.by_image[1]) == 3


def test_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(CONTENT), encoding="utf-8-sig")
    assert read_coco(path).classes == ["cat"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_other_encoding_is_named(tmp_path, encoding):
    path = tmp_path / "data.json"
    data = content(categories=[{"id": 1, "name": "Käfer"}])
    path.write_bytes(json.dumps(data, ensure_ascii=False).encode(encoding))
    words = "UTF-8" if encoding == "latin-1" else encoding
    with pytest.raises(UserError, match=f"another encoding.*{words}.*save it as that"):
        read_coco(path)


def test_class_names_are_compared_in_one_normal_form(tmp_path):
    for name in ("é", "e\u0301"):
        assert read_coco(write(tmp_path, content(categories=[{"id": 1, "name": name}]))).classes == ["é"]


def test_unused_category_with_a_duplicate_name_is_left_out_and_named(tmp_path):
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    coco = read_coco(write(tmp_path, content(categories=categories)))
    assert [c["id"] for c in coco.categories] == [1, 2]
    assert "left out category 0 ('cat')" in coco.summary()


def test_two_used_categories_with_the_same_name_are_refused(tmp_path):
    categories = [{"id": 4, "name": "cat"}, {"id": 1, "name": "cat"}]
    records = annotations({"category_id": 4}, {"category_id": 1})
    with pytest.raises(UserError, match="categories 1 and 4 are both called 'cat'"):
        read_coco(write(tmp_path, content(categories=categories, annotations=records)))


def test_crowds_and_ignored_boxes_are_counted(tmp_path):
    records = annotations({"iscrowd": 1}, {"ignore": 1}, {"ignore": "1", "iscrowd": True}, {}, {})
    coco = read_coco(write(tmp_path, content(annotations=records)))
    assert '2 boxes, 1 classes; 2 crowds and 1 boxes marked "ignore" are neither' in coco.summary()
    assert [a["iscrowd"] for a in coco.by_image[1]] == [1, 1, 1, 0, 0]


def test_image_with_only_crowds_is_background(tmp_path):
    assert read_coco(write(tmp_path, content(annotations=annotations({"iscrowd": 1})))).empty == 1


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10]),
        ([-5, -5, 6, 6], [0, 0, 1, 1]),
        ([9, 9, 50, 50], [9, 9, 10, 10]),
        ([10, 0, 5, 5], None),
        ([-5, 0, 5, 5], None),
        ([1, 1, 0, 5], None),
        ([1, 1, 5, -5], None),
        ([1, float("inf"), 5, 5], None),
        ([float("nan"), 1, 5, 5], None),
        ([1, 1, 1e300, 5], None),
        ([6, 1, 1e-7, 5], None),  # 6 + 1e-7 is 6 in float32
        ([0, 1, 1e-7, 5], None),  # flipped: 10 - 1e-7 is 10
        ([6, 1, 1e-3, 5], [6, 1, 6.001, 6]),
    ],
)
def test_boxes_are_clamped_and_degenerate_ones_dropped(box, expected):
    boxes, usable = clamped(np.array([box], dtype=np.float64), np.array([[10, 10]]))
    assert usable.tolist() == [expected is not None] and boxes.dtype == np.float32
    if expected:
        assert boxes[0].tolist() == pytest.approx(expected)


def test_the_box_that_made_the_loss_infinite_is_dropped(tmp_path):
    records = annotations({"bbox": [600, 10, 1e-5, 50]}, {})
    coco = read_coco(write(tmp_path, content(annotations=records)))
    assert coco.dropped == 1 and coco.annotations.bbox.tolist() == [[1, 2, 30, 40]]


sides = st.integers(1, 5000)
near = st.floats(-6000, 6000)
small = st.floats(0, 1e-2)


@settings(max_examples=300, deadline=None)
@given(x=near, y=near, w=near | small, h=near | small, width=sides, height=sides, resized=st.floats(0.05, 20))
def test_a_usable_box_keeps_its_width_when_flipped_and_resized(x, y, w, h, width, height, resized):
    boxes, usable = clamped(np.array([[x, y, w, h]]), np.array([[width, height]]))
    x1, y1, x2, y2 = boxes[0]
    assert 0 <= x1 <= width and 0 <= x2 <= width and 0 <= y1 <= height and 0 <= y2 <= height
    if usable[0]:
        scale = np.float32(resized)
        flipped = np.float32(width) - np.float32([x2, x1])
        for low, high in ((x1, x2), (y1, y2), flipped):
            assert high > low and high * scale > low * scale
    elif min(x + w, width) - max(x, 0) > 1e-2 and min(y + h, height) - max(y, 0) > 1e-2:
        raise AssertionError("a box of a hundredth of a pixel is no line")


scalar = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 3)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["0", "1", "640", "1.0", "nan", "-1", 2**63, 1e308, "a\0b", "é"])
)
anything = st.recursive(
    scalar,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
boxes = st.lists(scalar, min_size=3, max_size=5) | st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4)


def records(kind, *optional, **fields):
    """Records of a kind: valid ones, or with fields replaced, added or removed."""
    sound = CONTENT[kind][0]
    values = {name: st.just(sound[name]) | fields.get(name, anything) for name in sound}
    changed = st.fixed_dictionaries({}, optional={**values, **dict.fromkeys(optional, anything)}).map(
        lambda changes: {**sound, **changes}
    )
    return st.lists(changed | st.fixed_dictionaries({}, optional=values) | anything, max_size=3) | anything


files = st.fixed_dictionaries(
    {},
    optional={
        "images": st.just(CONTENT["images"]) | records("images"),
        "categories": st.just(CONTENT["categories"]) | records("categories", "supercategory"),
        "annotations": records("annotations", "iscrowd", "ignore", "area", "segmentation", bbox=boxes),
        "info": anything,
    },
)


@settings(max_examples=150, deadline=None)
@given(files)
def test_reading_raises_only_user_errors(tmp_path, data):
    path = write(tmp_path, data)
    try:
        coco = read_coco(path)
    except UserError as error:
        assert "data.json" in str(error) and "\n" not in str(error)
        return
    assert (coco.images.sizes >= 1).all() and (coco.images.sizes <= LONGEST_SIDE).all()
    assert np.isfinite(coco.annotations.boxes).all() and coco.summary()
    assert coco.by_image.keys() <= set(coco.images.ids.tolist())
