"""Folders of a known layout: the files that are read, and errors that say what was looked for."""

import json

import pytest
from coco_files import annotations, content, write
from tiny_runs import quiet_fit, run_config
from yolo_files import as_yolo, write_yolo

from frs_train.cli.main import main
from frs_train.config import DataConfig, RunConfig
from frs_train.data.coco import read_coco
from frs_train.data.layouts import read_split
from frs_train.errors import UserError
from frs_train.log import Log
from frs_train.options import from_dict, to_dict
from frs_train.training.datasets import open_data

LOG = Log(quiet=True)
LAYOUTS = {
    "coco": {
        "train": ("train.json", "images"),
        "val": ("val.json", "images"),
        "test": ("test.json", "images"),
    },
    "roboflow": {
        "train": ("train/_annotations.coco.json", "train"),
        "val": ("valid/_annotations.coco.json", "valid"),
        "test": ("test/_annotations.coco.json", "test"),
    },
    "coco-2017": {
        "train": ("annotations/instances_train2017.json", "train2017"),
        "val": ("annotations/instances_val2017.json", "val2017"),
    },
}


def laid_out(folder, layout):
    """Writes the annotation files of a layout; those of each split have another number of boxes."""
    for boxes, (name, _) in enumerate(LAYOUTS[layout].values(), start=1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder, content(annotations=annotations(*[{}] * boxes)), name)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_of_each_layout(tmp_path, layout):
    laid_out(tmp_path, layout)
    for boxes, (split, (name, images)) in enumerate(LAYOUTS[layout].items(), start=1):
        coco, folder = read_split(LOG, tmp_path, split)
        assert (coco.name, folder) == (str(tmp_path / name), tmp_path / images)
        assert len(coco.annotations.bbox) == boxes


@pytest.mark.parametrize("name", ["data.yaml", "data.yml", "coco8.yaml"])
def test_yolo_by_its_folder_or_its_file(tmp_path, name):
    write_yolo(tmp_path, {"images/val/a.png": "0 0.5 0.5 0.1 0.1"}).rename(tmp_path / name)
    given = tmp_path if name.startswith("data") else tmp_path / name
    coco, folder = read_split(LOG, given, "val")
    assert coco.name == f"{tmp_path / name} (val)" and folder == tmp_path


def test_given_paths_override_those_of_the_folder(tmp_path):
    laid_out(tmp_path, "coco")
    other = write(tmp_path, content(annotations=annotations(*[{}] * 9)), "other.json")
    coco, folder = read_split(LOG, tmp_path, "train", other)
    assert len(coco.annotations.bbox) == 9 and folder == tmp_path / "images"
    coco, folder = read_split(LOG, tmp_path, "train", None, tmp_path)
    assert len(coco.annotations.bbox) == 1 and folder == tmp_path
    coco, folder = read_split(LOG, tmp_path / "none", "train", other, tmp_path)
    assert len(coco.annotations.bbox) == 9 and folder == tmp_path


def refusal(*arguments):
    with pytest.raises(UserError) as refused:
        read_split(LOG, *arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_unknown_layout_says_what_was_looked_for_and_found(tmp_path):
    assert refusal(tmp_path, "val").endswith("Found: nothing. Give both --annotations and --images instead.")
    (tmp_path / "labels").mkdir()
    (tmp_path / "notes.txt").write_text("")
    message = refusal(tmp_path, "val", None, None, "val-")
    for name in (
        "val.json",
        "valid/_annotations.coco.json",
        "annotations/instances_val2017.json",
        "data.yaml",
    ):
        assert name in message
    assert "Found: labels/, notes.txt. Give both --val-annotations and --val-images instead." in message


def test_listing_of_a_large_folder_is_cut(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02d}.jpg").write_text("")
    assert "10.jpg, 11.jpg, 8 more." in refusal(tmp_path, "val")


def test_two_layouts_in_one_folder_are_refused(tmp_path):
    laid_out(tmp_path, "coco")
    write_yolo(tmp_path, {"images/val/a.png": ""})
    assert "in 2 places: val.json, data.yaml" in refusal(tmp_path, "val")
    assert read_split(LOG, tmp_path / "data.yaml", "val")[0].name.endswith("data.yaml (val)")


def test_folder_that_is_none(tmp_path):
    assert f"--data {tmp_path}/x does not exist" in refusal(tmp_path / "x", "train")
    assert f"--data {tmp_path}/x.yaml does not exist" in refusal(tmp_path / "x.yaml", "train")
    (tmp_path / "x").write_text("")
    assert f"--data {tmp_path}/x is not a folder" in refusal(tmp_path / "x", "train")
    assert "--data is missing" in refusal(None, "train", tmp_path / "x")


def test_yolo_takes_no_single_path(tmp_path):
    path = write_yolo(tmp_path, {"images/train/a.png": ""})
    assert f"{path} names images and boxes together" in refusal(tmp_path, "train", None, tmp_path)


def test_missing_split(tmp_path):
    laid_out(tmp_path, "coco-2017")
    assert "no annotations of the split 'test'" in refusal(tmp_path, "test")


def test_both_splits_of_a_run_come_from_its_folder(digits, tmp_path):
    train, val = open_data(RunConfig(tmp_path, data=DataConfig(folder=digits)), LOG)
    assert (len(train), len(val)) == (12, 5) and train.folder == val.folder == digits / "images"


def test_folder_is_saved_and_older_configurations_have_none(digits, tmp_path):
    saved = to_dict(RunConfig(tmp_path, data=DataConfig(folder=digits)))
    assert from_dict(RunConfig, saved).data.folder == digits
    del saved["data"]["folder"]
    assert from_dict(RunConfig, saved).data.folder is None


def test_missing_data_is_named(tmp_path, capsys):
    for line in (f"train --out {tmp_path}/run", f"eval {tmp_path}", f"eval {tmp_path} --images {tmp_path}"):
        assert main(line.split()) == 2
        assert "frs-train: --data is missing" in capsys.readouterr().err


def test_commands_take_a_folder(digits, tmp_path, capsys):
    """A run on `--data`, its report, and an evaluation on the same data as YOLO."""
    quiet_fit(run_config(digits, tmp_path / "run", iterations=1), data=DataConfig(folder=digits, workers=0))
    coco = read_coco(digits / "val.json")
    as_yolo(coco, digits / "images", tmp_path / "yolo", {"val": "images/val"}, "images/val")
    for data, read in (
        (f"{digits}", f"{digits}/val.json: 5 images"),
        (f"{digits} --split train", f"{digits}/train.json: 12 images"),
        (f"{tmp_path}/yolo", f"{tmp_path}/yolo/data.yaml (val): 5 images"),
    ):
        assert main(f"eval {tmp_path}/run --data {data} --device cpu --workers 0".split()) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["classes"].keys() == set(coco.classes) and read in err
    assert main(f"visualize {tmp_path}/run --data {digits} --out {tmp_path}/masks --limit 1".split()) == 0
    assert main(f"report {tmp_path}/run --out {tmp_path}/report.html --images 1".split()) == 0
    assert "no validation data" not in (tmp_path / "report.html").read_text()
