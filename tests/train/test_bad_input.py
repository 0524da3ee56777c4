"""Errors of users: one paragraph that names the file or record, exit code 2, and no traceback."""

import errno
import json
import multiprocessing
import os
import shutil

import pytest
import torch
from tiny_runs import quiet_fit, run_config

from frs_train.cli.main import main
from frs_train.config import DistillConfig
from frs_train.data.coco import read_coco
from frs_train.errors import UserError
from frs_train.training import checkpoint


@pytest.fixture
def copy(digits, tmp_path):
    """A copy of the digits data set that a test may damage, and a function that edits its train.json."""
    folder = tmp_path / "digits"
    shutil.copytree(digits, folder)

    def edit(change):
        content = json.loads((folder / "train.json").read_text())
        change(content)
        (folder / "train.json").write_text(json.dumps(content))

    return folder, edit


def train(folder, out, *more):
    return main(
        f"train --train-annotations {folder}/train.json --train-images {folder}/images "
        f"--val-annotations {folder}/val.json --val-images {folder}/images --backbone resnet10 "
        "--backbone-width 0.25 --fpn-width 16 --head-convs 1 --min-size 64 --iterations 1 --batch-size 2 "
        f"--workers 0 --device cpu --out {out}".split()
        + list(more)
    )


def refused(code, capsys, *words):
    """Checks exit code 2, and that stderr is a single paragraph with all of these words."""
    message = [line for line in capsys.readouterr().err.splitlines() if line.startswith("frs-train: ")]
    assert code == 2 and len(message) == 1
    for word in words:
        assert word in message[0]


def test_missing_annotation_file(copy, tmp_path, capsys):
    (copy[0] / "train.json").unlink()
    refused(train(copy[0], tmp_path / "run"), capsys, "train.json", "does not exist")


def test_truncated_annotation_file(copy, tmp_path, capsys):
    path = copy[0] / "train.json"
    path.write_text(path.read_text()[:-100])
    refused(train(copy[0], tmp_path / "run"), capsys, "train.json", "not valid JSON", "line")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("annotations"), ["annotations", "COCO"]),
        (lambda c: c["images"].clear(), ["no images"]),
        (lambda c: c["images"][3].pop("width"), ["image 3", '"width"']),
        (lambda c: c["categories"].append(c["categories"][0]), ["two category records", "id"]),
        (lambda c: c["annotations"][5].update(category_id=99), ["annotation 5", "unknown category 99"]),
        (lambda c: c["annotations"][5].update(image_id=-1), ["annotation 5", "image -1"]),
        (lambda c: c["annotations"][5].update(bbox=[1, 2, 3]), ["annotation 5", "four numbers"]),
        (lambda c: c["annotations"].clear(), ["no usable box"]),
    ],
)
def test_malformed_records(copy, tmp_path, capsys, change, words):
    copy[1](change)
    refused(train(copy[0], tmp_path / "run"), capsys, "train.json", *words)


def test_missing_image(copy, tmp_path, capsys):
    victim = sorted((copy[0] / "images").glob("train*"))[1]
    victim.unlink()
    refused(train(copy[0], tmp_path / "run"), capsys, victim.name, "1 of 12 images")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_truncated_image(copy, tmp_path, capsys, workers):
    for victim in (copy[0] / "images").glob("train*"):
        victim.write_bytes(victim.read_bytes()[:200])
    code = train(copy[0], tmp_path / "run", "--workers", workers)
    refused(code, capsys, "images/train", "cannot be read", "--resume")
    assert not multiprocessing.active_children()  # Python would wait for them at exit


def test_image_of_another_size(copy, tmp_path, capsys):
    copy[1](lambda c: [image.update(width=image["width"] + 1) for image in c["images"]])
    refused(train(copy[0], tmp_path / "run"), capsys, "64 x 64", "65 x 64")


def test_degenerate_boxes_are_dropped_and_counted(copy):
    boxes = [[5, 5, 0, 9], [5, 5, 9, -1], [70, 5, 9, 9], [-9, 0, 9, 9], [1, 1, float("nan"), 4]]

    def spoil(content):
        for record, box in zip(content["annotations"], boxes, strict=False):
            record["bbox"] = box

    before = sum(map(len, read_coco(copy[0] / "train.json").by_image.values()))
    copy[1](spoil)
    coco = read_coco(copy[0] / "train.json")
    assert coco.dropped == 5 and sum(map(len, coco.by_image.values())) == before - 5
    assert "dropped 5 degenerate boxes" in coco.summary()


def test_images_without_boxes_are_background(copy, tmp_path, capsys):
    def strip(content):
        keep = content["images"][0]["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] == keep]

    copy[1](strip)
    assert train(copy[0], tmp_path / "run", "--batch-size", "12") == 0
    assert "11 images have no boxes" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_wrong_checkpoint(digits, tmp_path, capsys, content):
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(1)}, path) if content is None else path.write_bytes(content)
    code = main(f"eval {path} --annotations {digits}/val.json --images {digits}/images --device cpu".split())
    refused(code, capsys, str(path), "not a checkpoint of frs-train")


def test_folder_without_checkpoint(digits, tmp_path, capsys):
    code = main(f"eval {tmp_path} --annotations {digits}/val.json --images {digits}/images".split())
    refused(code, capsys, str(tmp_path), "no checkpoint")


def test_evaluation_on_an_unknown_category(copy, teacher, capsys):
    copy[1](lambda c: c["categories"].append({"id": 77, "name": "zebra"}))
    code = main(f"eval {teacher} --annotations {copy[0]}/train.json --images {copy[0]}/images".split())
    refused(code, capsys, "zebra", str(teacher))


def test_head_loss_alone_with_a_teacher_of_another_family(digits, teacher, tmp_path):
    distill = DistillConfig(teacher=str(teacher), method="frs-head")
    config = run_config(digits, tmp_path, distill=distill, detector={"family": "retinanet"})
    with pytest.raises(UserError, match="--method frs-feature"):
        quiet_fit(config)


def test_identity_adapter_between_different_widths(digits, teacher, tmp_path):
    distill = DistillConfig(teacher=str(teacher), adapter="identity")
    with pytest.raises(UserError, match="equal channels"):
        quiet_fit(run_config(digits, tmp_path, distill=distill, detector={"fpn_width": 32}))


def test_distillation_without_a_teacher(digits, tmp_path):
    with pytest.raises(UserError, match="--teacher is missing"):
        quiet_fit(run_config(digits, tmp_path, distill=DistillConfig()))


def test_a_run_is_not_overwritten(digits, teacher):
    with pytest.raises(UserError, match="--resume"):
        quiet_fit(run_config(digits, teacher))


def test_full_disk_keeps_the_files_already_written(tmp_path, monkeypatch):
    content = {"config": {}, "classes": ["a"], "model": {}}
    first = checkpoint.save(tmp_path, 1, content, keep=1)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"checkpoint-00000002.pt cannot be written: No space left on device"):
        checkpoint.save(tmp_path, 2, content, keep=1)
    assert os.listdir(tmp_path) == [first.name] and checkpoint.load(first)["iteration"] == 1


def test_diverged_training_says_so(digits, tmp_path):
    with pytest.raises(UserError, match="Lower --lr"):
        quiet_fit(run_config(digits, tmp_path, optimizer="sgd", lr=1e12, lr_warmup=0, iterations=6))
