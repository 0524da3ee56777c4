"""`frs-train predict`: results equal to those of an evaluation, skipped images, and files that are not
overwritten."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_coco_metrics import Oracle
from tiny_runs import quiet_fit, run_config

from frs_train.cli.main import main
from frs_train.data.coco import read_coco
from frs_train.data.dataset import CocoDetection
from frs_train.data.image_list import find_images, matched, numbered
from frs_train.errors import UserError
from frs_train.evaluation import coco_metrics
from frs_train.evaluation import predict as module
from frs_train.evaluation.coco_metrics import evaluate
from frs_train.evaluation.pictures import draw_boxes, pixels
from frs_train.evaluation.predict import Predictions, below_common_folder, predict

CPU = torch.device("cpu")
FAST = "--device cpu --workers 0"


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """A run whose detector keeps detections of every score."""
    out = tmp_path_factory.mktemp("run") / "run"
    quiet_fit(run_config(digits, out, detector={"score_threshold": 0.0, "detections_per_image": 20}))
    return out


def load(folder):
    return [json.loads((folder / name).read_text()) for name in ("predictions.json", "images.json")]


@pytest.fixture
def validation(digits):
    coco = read_coco(digits / "val.json")
    return CocoDetection(coco, digits / "images"), [str(digits / "images" / n) for n in coco.images.names]


@pytest.mark.parametrize("workers", [0, 1])
def test_results_score_as_in_an_evaluation(validation, digits, tmp_path, workers):
    """The detections are the annotated boxes, except those of two images."""
    dataset, files = validation
    oracle = Oracle(dataset)
    for target in list(oracle.answers.values())[:2]:
        target["boxes"] = target["boxes"] + 4
    expected = evaluate(oracle, dataset, CPU, batch_size=2)
    assert 0 < expected["AP"] < 1
    images = matched(files[::-1], dataset.coco)
    count, skipped = predict(
        oracle, Predictions(tmp_path, images, dataset.coco.categories), CPU, batch_size=2, workers=workers
    )
    truth = COCO(str(digits / "val.json"))
    found = truth.loadRes(str(tmp_path / "predictions.json"))
    assert (len(found.anns), skipped) == (count, 0)
    scores = COCOeval(truth, found, "bbox")
    scores.evaluate()
    scores.accumulate()
    precision = scores.eval["precision"][..., 0, -1]
    assert precision[precision > -1].mean() == pytest.approx(expected["AP"], abs=1e-12)


def test_command_finds_what_an_evaluation_finds(run, digits, tmp_path, capsys, monkeypatch):
    """pycocotools gets equal records from both commands, to the last bit."""
    scored = []
    summarise = coco_metrics.summarise
    monkeypatch.setattr(
        coco_metrics, "summarise", lambda *given: scored.append(given[1]) or summarise(*given)
    )
    assert main(f"eval {run} --data {digits} {FAST}".split()) == 0
    line = f"predict {run} {digits}/images/val* --annotations {digits}/val.json --out {tmp_path}/p {FAST}"
    assert main([*line.split(), "--no-pictures"]) == 0
    results, images = load(tmp_path / "p")
    truth = json.loads((digits / "val.json").read_text())
    assert images["images"] == [
        {k: i[k] for k in ("id", "file_name", "width", "height")} for i in truth["images"]
    ]
    assert [c["id"] for c in images["categories"]] == [c["id"] for c in truth["categories"]]
    assert [results] == scored and {r["image_id"] for r in results} == {i["id"] for i in truth["images"]}
    assert "5 of its 5 images are given" in capsys.readouterr().err
    assert not (tmp_path / "p" / "pictures").exists()


def test_results_without_annotations_explain_themselves(run, digits, tmp_path):
    assert main(f"predict {run} {digits}/images --out {tmp_path}/p {FAST} --limit 2".split()) == 0
    results, images = load(tmp_path / "p")
    api = COCO(str(tmp_path / "p" / "images.json"))
    found = api.loadRes(str(tmp_path / "p" / "predictions.json"))
    assert len(found.anns) == len(results) > 0 and len(api.imgs) == 17
    assert [image["file_name"] for image in images["images"]] == find_images([f"{digits}/images"])
    assert {c["id"]: c["name"] for c in images["categories"]} == {k + 1: str(k) for k in range(10)}
    assert len(read_coco(tmp_path / "p" / "images.json").images) == 17
    pictures = sorted(path.name for path in (tmp_path / "p" / "pictures").iterdir())
    assert pictures == ["train_000000.png", "train_000001.png"]
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "images.json",
        "pictures",
        "predictions.json",
    ]


def test_minimum_score(run, digits, tmp_path):
    for name, options in (("all", ""), ("some", "--score 0.1"), ("none", "--score 1")):
        line = f"predict {run} {digits}/images --out {tmp_path}/{name} {FAST} --no-pictures {options}"
        assert main(line.split()) == 0
    every, images = load(tmp_path / "all")
    assert 0 < min(result["score"] for result in every) < max(result["score"] for result in every)
    assert load(tmp_path / "some") == [[result for result in every if result["score"] >= 0.1], images]
    assert load(tmp_path / "none") == [[], images]


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_skipped_and_counted(run, digits, tmp_path, capsys, workers):
    shutil.copytree(digits / "images", tmp_path / "images")
    bad = sorted((tmp_path / "images").iterdir())[1]
    bad.write_bytes(bad.read_bytes()[:100])
    line = (
        f"predict {run} {tmp_path}/images --out {tmp_path}/p --device cpu --workers {workers} --no-pictures"
    )
    assert main(line.split()) == 1
    err = capsys.readouterr().err
    assert f"warning: Image {bad} cannot be read" in err and "It is skipped." in err and "--resume" not in err
    assert "1 of 17 images were skipped (exit status 1)" in err
    _, images = load(tmp_path / "p")
    assert [image["id"] for image in images["images"]] == [1, *range(3, 18)]


def test_no_readable_image_at_all(run, tmp_path, capsys):
    (tmp_path / "a.png").write_text("no image")
    assert main(f"predict {run} {tmp_path}/a.png --out {tmp_path}/p {FAST}".split()) == 2
    assert "None of the 1 images can be read" in capsys.readouterr().err
    assert list((tmp_path / "p").iterdir()) == []


@pytest.mark.parametrize("name", ["predictions.json", "images.json", "pictures/train_000003.png"])
def test_existing_files_are_not_overwritten(digits, tmp_path, name):
    images = numbered(find_images([str(digits / "images")]))
    (tmp_path / "pictures").mkdir()
    Predictions(tmp_path, images, [], drawn=17).refuse_to_overwrite()
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"has 1 of these 19 files already, the first is {name}"):
        Predictions(tmp_path, images, [], drawn=17).refuse_to_overwrite()
    Predictions(tmp_path, images, [], drawn=3)


def test_interrupted_prediction_leaves_no_results(validation, tmp_path, monkeypatch):
    dataset, files = validation
    oracle = Oracle(dataset)
    monkeypatch.setattr(module, "coco_results", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        predict(oracle, Predictions(tmp_path, numbered(files), dataset.coco.categories), CPU)
    assert list(tmp_path.iterdir()) == []


def test_turned_image_is_detected_and_listed_upright(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    assert main(f"predict {run} {tmp_path}/a.jpg --out {tmp_path}/p {FAST}".split()) == 0
    _, images = load(tmp_path / "p")
    assert (images["images"][0]["width"], images["images"][0]["height"]) == (40, 60)
    with Image.open(tmp_path / "p" / "pictures" / "a.png") as picture:
        assert picture.height > picture.width


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 48), (640, 480)), ((1000, 500), (1000, 500)), ((2000, 1000), (1600, 800)), ((900, 2), (900, 2))],
)
def test_picture_is_the_image_with_its_boxes(size, expected):
    width, height = size
    image = np.full((height, width, 3), 128, dtype=np.uint8)
    boxes = {"boxes": torch.tensor([[0.0, 0, width / 2, height]]), "labels": torch.tensor([1])}
    plain = pixels(draw_boxes(image, {key: value[:0] for key, value in boxes.items()}, ["a"]))
    drawn = pixels(draw_boxes(image, {**boxes, "scores": torch.tensor([0.9])}, ["a$b"]))
    assert plain.shape == drawn.shape == (*expected[::-1], 3)
    changed = (plain != drawn).any(axis=2)
    assert changed[:, : expected[0] // 2].any() and not changed[:, expected[0] // 2 + 20 :].any()


def test_pictures_are_named_below_the_common_folder():
    assert below_common_folder(["p/a/x.jpg", "p/b/x.jpg", "p/y.jpg"]) == ["a/x.jpg", "b/x.jpg", "y.jpg"]
    assert below_common_folder(["/p/a/x.jpg"]) == ["x.jpg"] and below_common_folder([]) == []
