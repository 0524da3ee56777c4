"""ONNX models of all one-stage families detect what the detectors detect."""

import functools
import json
import sys

import numpy as np
import pytest
import torch
from tiny_detectors import tiny

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from frs_train.detectors import OnnxDetector  # noqa: E402
from frs_train.detectors.onnx_export import onnx_model  # noqa: E402
from frs_train.errors import UserError  # noqa: E402
from frs_train.evaluation.onnx_check import Comparison, check_export, compare  # noqa: E402

FAMILIES = ("retinanet", "fcos", "gfl")
CLASSES = ["mole", "möwe", "a, b"]
CANVAS = 64, 96
FIXED = 3
SHAPES = ((64, 90), (128, 192), (33, 50), (64, 96), (100, 150))  # padded to the canvas in training too


@torch.no_grad()
def lively(family, **options):
    """A tiny detector with random weights whose scores and boxes vary: logits have a standard deviation of 1,
    and so have the codes of the boxes."""
    torch.manual_seed(0)
    usual = {"backbone_norm": "frozen", "head_norm": "none", "score_threshold": 0.3}
    detector = tiny(family, **{**usual, **options}).eval()
    head = detector.model.head
    boxes = head.regression_head.distances if family == "gfl" else head.regression_head.bbox_reg
    last = {"cls_logits": head.classification_head.cls_logits, "bbox_regression": boxes}
    batch, _ = detector.prepare(pictures((64, 96)), None, None)
    outputs = detector.run_head(detector.features(batch))
    for name, layer in last.items():
        layer.weight /= (outputs[name] - outputs[name].mean((0, 1))).std()
        layer.bias.zero_()
    if family == "gfl":  # boxes of about one stride; they would otherwise all cover the picture
        boxes.bias.copy_(-torch.arange(17.0).repeat(4))
    return detector


def pictures(*shapes):
    random = torch.Generator().manual_seed(1)
    return [torch.rand(3, *shape, generator=random) for shape in shapes]


@functools.cache
def exported(family):
    """A detector and the content of its ONNX file, that of RetinaNet with a fixed batch. An export takes
    seconds. The tests must not change the detector."""
    detector = lively(family)
    return detector, onnx_model(detector, CLASSES, CANVAS, FIXED if family == "retinanet" else None)


def opened(family):
    detector, content = exported(family)
    return detector, OnnxDetector(content)


def assert_same(wanted, found, image, model):
    """The same detections, in any order of nearly equal scores."""
    assert len(found["scores"]) == len(wanted["scores"]) >= 10, "an empty comparison proves nothing"
    result = Comparison()
    compare(result, wanted, found, image, model)
    assert result.alone == 0 and result.box < 1e-2 and result.score < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_detections_are_those_of_the_detector(family):
    detector, model = opened(family)
    images = pictures(*SHAPES)
    wanted = detector.detect(images)
    assert len({int(label) for found in wanted for label in found["labels"]}) > 1
    for step in (1, 2, 5):
        found = [d for start in range(0, 5, step) for d in model.detect(images[start : start + step])]
        for each in zip(wanted, found, images, strict=True):
            assert_same(*each, model)


def test_a_file_with_a_fixed_batch():
    _, model = opened("retinanet")
    assert model.batch == FIXED and model.detect([]) == []
    assert [o.shape for o in model.session.get_outputs()] == [[3, 100, 4], [3, 100], [3, 100], [3]]
    assert [i.shape for i in model.session.get_inputs()] == [[3, 3, 64, 96], [3, 2]]


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_other_shapes_are_fitted(family):
    """The reference resizes onto the canvas with torch; it equals `detect` where nothing has to be fitted."""
    detector, model = opened(family)
    for image in pictures((150, 60), (200, 200), (31, 180)):
        assert_same(detector.detect_on_canvas(image, CANVAS), model.detect([image])[0], image, model)
    for image in pictures(*SHAPES[:2]):
        wanted, found = detector.detect([image])[0], detector.detect_on_canvas(image, CANVAS)
        assert_same(wanted, found, image, model)


def test_inputs_outputs_and_padding():
    _, model = opened("gfl")
    assert model.batch is None
    assert [(i.name, i.type, i.shape) for i in model.session.get_inputs()] == [
        ("images", "tensor(float)", ["batch", 3, 64, 96]),
        ("sizes", "tensor(int64)", ["batch", 2]),
    ]
    assert [(o.name, o.type, o.shape) for o in model.session.get_outputs()] == [
        ("boxes", "tensor(float)", ["batch", 100, 4]),
        ("scores", "tensor(float)", ["batch", 100]),
        ("labels", "tensor(int64)", ["batch", 100]),
        ("count", "tensor(int64)", ["batch"]),
    ]
    pixels, sizes = np.zeros((2, 3, *CANVAS), np.float32), np.array([[64, 90], [1, 1]])
    pixels[0, :, :64, :90] = np.random.default_rng(0).random((3, 64, 90))
    found = model.run(pixels, sizes)
    count = found["count"]
    assert count[0] > 0
    for row in (0, 1):
        kept = slice(0, int(count[row])), slice(int(count[row]), None)
        assert (found["scores"][row, kept[0]] > 0.3).all() and (found["labels"][row, kept[0]] > 0).all()
        assert (np.diff(found["scores"][row]) <= 0).all()
        assert not any(found[key][row, kept[1]].any() for key in ("boxes", "scores", "labels"))
    noisy = pixels.copy()
    noisy[0, :, :, 90:] = 7
    assert all(np.array_equal(found[key], value) for key, value in model.run(noisy, sizes).items())


def test_the_file_describes_itself():
    detector, content = exported("fcos")
    proto = onnx.load_model_from_string(content)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(metadata["classes"]) == ["__background__", *CLASSES]
    assert metadata["family"] == "fcos" and json.loads(metadata["score_threshold"]) == 0.3
    assert json.loads(metadata["mean"]) == detector.model.transform.image_mean
    model = OnnxDetector(content)
    assert model.classes == CLASSES and model.canvas == CANVAS and model.batch is None
    assert model.config.detections_per_image == 100 and model.config.nms_threshold == 0.5
    assert not any(part.metadata_props for part in (proto.graph, *proto.graph.node)), "paths of source files"


def test_an_export_prints_nothing_and_is_deterministic(capfd, recwarn):
    detector, content = exported("retinanet")
    capfd.readouterr()
    recwarn.clear()
    assert onnx_model(detector, CLASSES, CANVAS, FIXED) == content
    assert capfd.readouterr() == ("", "") and not recwarn.list


def test_two_stages_are_refused():
    with pytest.raises(UserError, match="faster-rcnn, which cannot be exported as ONNX"):
        onnx_model(tiny("faster-rcnn").eval(), CLASSES, CANVAS)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_a_user_error(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}, .* pip install 'frs-kernels\[export\]'"):
        onnx_model(lively("retinanet"), CLASSES, CANVAS)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match="text.onnx is damaged"):
        OnnxDetector(str(tmp_path / "text.onnx"))
    with pytest.raises(UserError, match="none.onnx cannot be read: No such file"):
        OnnxDetector(tmp_path / "none.onnx")
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    foreign = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", ends[:1], ends[1:]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="foreign.onnx is not a detector that"):
        OnnxDetector(tmp_path / "foreign.onnx")


def altered(content, name, change):
    """The model with another value of a weight or constant."""
    proto = onnx.load_model_from_string(content)
    (value,) = (w for w in proto.graph.initializer if w.name.endswith(name))
    old = onnx.numpy_helper.to_array(value)
    value.CopyFrom(onnx.numpy_helper.from_array(change(old).astype(old.dtype), value.name))
    return OnnxDetector(proto.SerializeToString())


def test_nothing_found_is_an_empty_result():
    _, content = exported("retinanet")
    found = altered(content, "score_threshold", np.ones_like).detect(pictures((64, 90)))
    assert [tuple(found[0][key].shape) for key in ("boxes", "scores", "labels")] == [(0, 4), (0,), (0,)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_check_accepts_the_export_and_refuses_another_weight(family):
    detector, content = exported(family)
    images = pictures(*SHAPES, (150, 60), (200, 200))
    result = check_export(OnnxDetector(content), detector, images)
    assert result.pictures == 7 and result.detections > 100
    assert result.box < 1e-2 and result.score < 1e-4 and result.alone <= 0.01 * result.detections
    other = altered(content, "cls_logits.weight", lambda weight: 1.1 * weight)
    with pytest.raises(UserError, match="does not detect what the checkpoint detects"):
        check_export(other, detector, images)


def detections(*rows):
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


BOX = (10.0, 10, 20, 20)


@pytest.mark.parametrize(
    ("wanted", "found", "alone"),
    [
        ([(BOX, 0.9, 1)], [(BOX, 0.9, 1)], 0),
        ([(BOX, 0.9, 1)], [(BOX, 0.9, 2)], 2),
        ([(BOX, 0.9, 1)], [(BOX, 0.89, 1)], 2),
        ([(BOX, 0.9, 1)], [((10.0, 10, 20, 21), 0.9, 1)], 2),
        ([(BOX, 0.9, 1)], [], 1),
        ([], [(BOX, 0.9, 1)], 1),
        ([(BOX, 0.3005, 1)], [], 0),  # as near to the threshold as rounding can come
        ([], [], 0),
    ],
)
def test_a_detection_without_a_partner_is_counted(wanted, found, alone):
    model = opened("retinanet")[1]
    result = Comparison()
    compare(result, detections(*wanted), detections(*found), torch.zeros(3, 64, 96), model)
    assert result.alone == alone and result.detections == len(wanted)
    assert result.passed == (alone == 0)
