"""Pictures of masks: the position of each level on the image, and one PNG file per image."""

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from tiny_detectors import FAMILIES, seeded_on_one_thread, tiny

from frs_kernels import reference
from frs_train.data.coco import read_coco
from frs_train.data.dataset import CocoDetection
from frs_train.data.digits import make_digits
from frs_train.errors import UserError
from frs_train.evaluation import pictures

CLASSES = [str(d) for d in range(10)]


@pytest.fixture(autouse=True)
def quiet():
    with seeded_on_one_thread():
        yield


def target():
    return {"boxes": torch.tensor([[4.0, 6, 40, 44]]), "labels": torch.tensor([3])}


@pytest.mark.parametrize("family", FAMILIES)
def test_heats_are_the_masks_of_the_logits(family):
    detector = tiny(family, num_classes=10)
    image = torch.rand(3, 64, 96)
    view = pictures.look(detector, image)
    logits = detector([image]).cls_logits
    assert [heat.stride for heat in view.heats] == list(detector.strides)
    for heat, level in zip(view.heats, logits, strict=True):
        np.testing.assert_allclose(heat.values, reference.frs_mask(level)[0].detach().numpy(), rtol=1e-5)
    assert set(view.detections) == {"boxes", "scores", "labels"}
    assert not detector.training


def test_locations_follow_the_stride_on_a_resized_image():
    """The image is resized by 1/2, so that two neighbouring locations are two strides apart in its pixels."""
    view = pictures.look(tiny(min_size=(64,), max_size=128), torch.rand(3, 128, 192))
    assert view.heats[0].pitch == (16.0, 16.0)
    values = np.zeros((8, 12), dtype=np.float32)
    values[3, 5] = 1
    spread = pictures.on_pixels(pictures.Heat(8, values, (16.0, 16.0)), 128, 192)
    ys, xs = np.nonzero(spread)
    assert spread.shape == (128, 192)
    assert (ys.mean(), xs.mean()) == pytest.approx((3 * 16, 5 * 16), abs=0.5)
    assert len(ys) == 16 * 16


def test_mask_peaks_at_the_location_with_the_highest_score():
    """A location with raised logits is the brightest one in the panel of its level and in the summary."""
    detector = tiny(num_classes=10)
    detector.model.head.classification_head.cls_logits.register_forward_hook(raise_one)
    view = pictures.look(detector, torch.rand(3, 64, 64))
    summary = pictures.richest(view)
    y, x = np.unravel_index(summary.argmax(), summary.shape)
    assert abs(y - 2 * 8) <= 4 and abs(x - 5 * 8) <= 4
    figure = pictures.draw(view, target(), CLASSES)
    shown = figure.axes[2].images[0].get_array()
    assert np.asarray(shown)[16, 40].sum() > np.asarray(shown)[60, 4].sum() + 0.5


def raise_one(module, inputs, output):
    if output.shape[-1] == 8:
        output[:, :, 2, 5] = 6.0
    return output


def test_figure_has_a_panel_for_boxes_detections_summary_and_each_level():
    figure = pictures.draw(pictures.look(tiny(num_classes=10), torch.rand(3, 64, 64)), target(), CLASSES)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles[0] == "ground truth" and "detections" in titles[1] and "all levels" in titles[2]
    assert [title.split(":")[0] for title in titles[3:]] == [f"stride {s}" for s in (8, 16, 32, 64, 128)]
    assert [text.get_text() for text in figure.axes[0].texts] == ["2"]


def test_detections_below_the_score_are_not_drawn():
    view = pictures.look(tiny(num_classes=10), torch.rand(3, 64, 64))
    boxes = torch.tensor([[0.0, 0, 9, 9], [5, 5, 30, 30]])
    found = {"boxes": boxes, "scores": torch.tensor([0.29, 0.7]), "labels": torch.tensor([1, 10])}
    figure = pictures.draw(pictures.View(view.image, view.heats, found), target(), CLASSES, score=0.3)
    assert [text.get_text() for text in figure.axes[1].texts] == ["9 0.70"]


def test_one_png_per_image_with_the_name_of_the_image(tmp_path):
    paths = make_digits(tmp_path / "data", train=0, val=3, size=64, seed=0)
    dataset = CocoDetection(read_coco(paths["val"]), tmp_path / "data" / "images")
    detector = tiny(num_classes=10)
    written = pictures.write_pictures(detector, dataset, tmp_path / "out", torch.device("cpu"), limit=2)
    assert [path.name for path in written] == ["val_000000.png", "val_000001.png"]
    for path in written:
        picture = np.asarray(Image.open(path).convert("RGB"))
        assert min(picture.shape[:2]) > 400 and picture.std() > 20
    assert written[0].read_bytes() != written[1].read_bytes()


@pytest.fixture
def thin_and_odd(tmp_path):
    """Images of 1 x 300 and 300 x 1 pixels, names that collide, and a class name like a formula."""
    files = {"a/b.png": (300, 1), "a_b.png": (1, 300)} | dict.fromkeys(
        ("1.jpg", "1.png", "A_B.PNG"), (64, 64)
    )
    images, annotations = [], []
    for number, (name, size) in enumerate(files.items()):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number, 9, 9)).save(tmp_path / "images" / name)
        images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        box = {"bbox": [0, 0, *size], "area": size[0] * size[1], "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": 1, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": ODD}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return CocoDetection(read_coco(tmp_path / "a.json"), tmp_path / "images")


ODD = r"$\frac{1}$"


def test_thin_images_are_drawn(thin_and_odd):
    for figure in pictures.pictures(tiny(num_classes=1), thin_and_odd, torch.device("cpu"), [0, 1]):
        assert pictures.pixels(figure).std() > 20


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (2, 900), (64, 96)])
def test_boxes_follow_a_thin_image(shape):
    """The image is resized to at least one pixel; a box around the whole image stays one."""
    height, width = shape
    target = {"boxes": torch.tensor([[0.0, 0, width, height]]), "labels": torch.tensor([1])}
    batch, (moved,) = tiny(num_classes=1).prepare([torch.rand(3, *shape)], [target], 64)
    (size,) = batch.image_sizes
    assert min(size) >= 1 and max(size) <= 128
    assert moved["boxes"].tolist() == [pytest.approx([0, 0, size[1], size[0]], rel=1e-5)]


def test_each_image_gets_a_picture_and_existing_ones_are_not_replaced(thin_and_odd, tmp_path, monkeypatch):
    def blank(detector, dataset, device, indices, score):
        return [Figure((1, 1 + index), dpi=10) for index in indices]

    monkeypatch.setattr(pictures, "pictures", blank)
    given = None, thin_and_odd, tmp_path / "out", torch.device("cpu")
    written = pictures.write_pictures(*given)
    assert [path.name for path in written] == ["a_b.png", "a_b-2.png", "1.png", "1-2.png", "A_B-3.png"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(written)
    assert [Image.open(path).size for path in written] == [(10, 10 * n) for n in (1, 2, 3, 4, 5)]
    written[0].unlink()
    with pytest.raises(UserError, match="out has 4 of these 5 pictures already, the first is a_b-2.png"):
        pictures.write_pictures(*given)
    assert not written[0].exists()
    assert pictures.write_pictures(*given, replace=True) == written and written[0].exists()


def test_class_name_is_drawn_unchanged(thin_and_odd):
    (figure,) = pictures.pictures(tiny(num_classes=1), thin_and_odd, torch.device("cpu"), [2])
    (text,) = figure.axes[0].texts
    assert text.get_text() == ODD and not text.get_parse_math()


NAMES = st.text(st.characters() | st.sampled_from("/.$\\_{}\0\n\ud800aA"), max_size=300)


@settings(max_examples=30, deadline=None)
@given(NAMES, NAMES)
def test_any_name_can_be_drawn(name, title):
    figure = Figure((1, 1), dpi=40)
    one = {
        "boxes": torch.tensor([[0.0, 0, 8, 1]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([1.0]),
    }
    pictures.show_boxes(figure.subplots(), np.zeros((1, 8, 3)), one, [name], title)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing|Matplotlib currently does not support")
        pictures.pixels(figure)


def test_pixels_of_a_figure_are_an_image_for_tensorboard():
    figure = pictures.draw(pictures.look(tiny(num_classes=10), torch.rand(3, 64, 64)), target(), CLASSES)
    image = pictures.pixels(figure)
    width, height = figure.get_size_inches() * figure.dpi
    assert image.dtype == np.uint8 and image.shape == (int(height), int(width), 3)


def test_tensorboard_gets_the_pictures_of_an_iteration(tmp_path):
    tensorboard = pytest.importorskip(
        "torch.utils.tensorboard", reason="the extra `tensorboard` is not installed"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    paths = make_digits(tmp_path / "data", train=0, val=3, size=64, seed=0)
    dataset = CocoDetection(read_coco(paths["val"]), tmp_path / "data" / "images")
    writer = tensorboard.SummaryWriter(str(tmp_path / "events"))
    pictures.to_tensorboard(writer, tiny(num_classes=10), dataset, torch.device("cpu"), iteration=7)
    writer.close()
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert events.Tags()["images"] == ["masks/0", "masks/1"]
    (picture,) = events.Images("masks/1")
    assert picture.step == 7 and picture.encoded_image_string.startswith(b"\x89PNG")
