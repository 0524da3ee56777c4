"""The pictures for the check of an export."""

import pytest
import torch
from PIL import Image

from frs_train.data.coco import read_coco
from frs_train.data.dataset import CocoDetection
from frs_train.data.specimens import MOST, from_dataset, from_folder, random_pictures
from frs_train.errors import UserError


def test_a_folder_gives_its_first_pictures_upright(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.JPG", exif=turned)
    for number in range(9):
        Image.new("L", (20, 10 + number), 255).save(tmp_path / f"b{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    found = from_folder(tmp_path)
    assert found.sizes == [(40, 30), *((10 + number, 20) for number in range(9))]
    assert [tuple(p.shape) for p in found.pictures] == [(3, *size) for size in found.sizes[:MOST]]
    assert type(found.pictures[0]) is torch.Tensor and found.pictures[1].eq(1).all()


def test_a_folder_without_pictures_and_a_damaged_picture_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no picture in"):
        from_folder(tmp_path / "none")
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="a.png cannot be read"):
        from_folder(tmp_path)


def test_a_data_set_gives_its_first_pictures(digits):
    found = from_dataset(CocoDetection(read_coco(digits / "train.json"), digits / "images"))
    assert len(found.pictures) == MOST and found.sizes == [(64, 64)] * 12
    assert 0 < float(found.pictures[0].max()) <= 1


def test_random_pictures_are_always_the_same():
    first, second = random_pictures(), random_pictures()
    assert first.sizes == [] and len({p.shape for p in first.pictures}) == 4
    assert all(torch.equal(*pair) for pair in zip(first.pictures, second.pictures, strict=True))
    assert all(0 <= float(p.min()) < float(p.max()) <= 1 for p in first.pictures)
