"""Image files from the arguments of a command, and their ids."""

import os
import re

import pytest
from coco_files import content, write
from PIL import Image

from frs_train.data.coco import read_coco
from frs_train.data.image_list import find_images, matched, numbered
from frs_train.data.images import SUFFIXES, image_files
from frs_train.errors import UserError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Files in the folder `photos` of the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.JPG",
        "a.png",
        "z/c.tif",
        "z/y/d.webp",
        "notes.txt",
        ".hidden.png",
        ".cache/e.png",
        "w/f.md",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return tmp_path / "photos"


ALL = ["photos/a.png", "photos/b.JPG", "photos/z/c.tif", "photos/z/y/d.webp"]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["photos"], ALL),
        (["photos/"], ALL),
        (["photos/**"], ALL),
        (["ph*"], ALL),
        (["photos/*.png"], ALL[:1]),
        (["photos/z/c.tif", "photos/a.png"], [ALL[2], ALL[0]]),
        (["photos/z", "photos/[ab].*"], [*ALL[2:], *ALL[:2]]),
        (["photos/notes.txt"], ["photos/notes.txt"]),
    ],
)
def test_files_folders_and_patterns(photos, arguments, found):
    assert find_images(arguments) == found


def test_file_whose_name_is_a_pattern(photos):
    (photos / "a[1].png").write_text("")
    (photos / "a1.png").write_text("")
    assert find_images(["photos/a[1].png"]) == ["photos/a[1].png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos/x.png"], "Image 'photos/x.png' does not exist"),
        (["photos/*.gif"], "'photos/*.gif' matches no image files"),
        (["photos/*.txt"], "'photos/*.txt' matches no image files. Their names end with one of: .apng"),
        (["photos/w"], "'photos/w' has no image files"),
        ([""], "Image '' does not exist"),
        (["photos", "photos/a.png"], "1 of 4 images are given more than once, the first is"),
        (["photos/a.png", "./photos/../photos/a.png"], "1 of 1 images are given more than once"),
        (["photos", "photos"], "4 of 4 images are given more than once"),
    ],
)
def test_arguments_without_images_and_repeated_images(photos, arguments, words):
    with pytest.raises(UserError, match=re.escape(words)) as refused:
        find_images(arguments)
    assert "\n" not in str(refused.value)


def test_linked_folders_are_read_once(photos):
    (photos / "z" / "loop").symlink_to(photos, target_is_directory=True)
    elsewhere = photos.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "g.png").write_text("")
    (photos / "link").symlink_to(elsewhere, target_is_directory=True)
    assert list(image_files(photos)) == [
        str(photos / name) for name in ("a.png", "b.JPG", "link/g.png", "z/c.tif", "z/y/d.webp")
    ]


def test_all_endings_are_those_of_formats_that_pillow_opens():
    formats = Image.registered_extensions()
    assert [ending for ending in sorted(SUFFIXES) if formats.get(ending) not in Image.OPEN] == []


def test_images_are_numbered_in_their_order(tmp_path):
    files = []
    for number, size in enumerate([(4, 6), (8, 3)]):
        files.append(str(tmp_path / f"{number}.png"))
        Image.new("L", size, number).save(files[-1])
    (tmp_path / "2.png").write_text("no image")
    images = numbered([*files, str(tmp_path / "2.png")])
    image, target = images[1]
    assert image.shape == (3, 3, 8) and image.unique().tolist() == [1] and int(target["index"]) == 1
    assert images.record(1, 8, 3) == {"id": 2, "file_name": files[1], "width": 8, "height": 3}
    assert isinstance(images[2], UserError) and "--resume" not in str(images[2])


def test_name_that_is_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.png"
    try:
        with open(path, "wb") as file:
            Image.new("L", (2, 2)).save(file, "png")
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    images = numbered(find_images([str(tmp_path)]))
    assert images[0][0].shape == (3, 2, 2)
    assert os.fsencode(images.record(0, 2, 2)["file_name"]) == path


def coco_of(folder, *names):
    images = [{"id": 50 - row, "file_name": name, "width": 4, "height": 4} for row, name in enumerate(names)]
    return read_coco(write(folder, content(images=images, annotations=[])))


@pytest.mark.parametrize(
    ("names", "files", "ids"),
    [
        (["a.png", "b.png"], ["x/b.png", "x/a.png"], [50, 49]),
        (["a.png", "b.png"], ["y/b.png"], [49]),
        (["a.png", "sub/a.png"], ["x/a.png", "x/sub/a.png"], [50, 49]),
        (["sub\\a.png"], ["x/sub/a.png"], [50]),
        (["cafe\u0301.png"], ["x/caf\u00e9.png"], [50]),
        (["a.png", "a.png"], ["x/a.png"], [50, 49]),
    ],
)
def test_files_have_the_ids_of_their_records(tmp_path, names, files, ids):
    images = matched(files, coco_of(tmp_path, *names))
    assert images.ids.tolist() == ids and images.sizes.tolist() == [[4, 4]] * len(ids)
    assert [os.fsdecode(name) for name in images.names] == [names[50 - number] for number in ids]


def test_files_and_records_must_fit(tmp_path):
    coco = coco_of(tmp_path, "a.png")
    with pytest.raises(UserError, match=r"1 of 2 images are not in .*data\.json, the first is x/b\.png"):
        matched(["x/a.png", "x/b.png"], coco)
    with pytest.raises(UserError, match=r"x/a\.png and y/a\.png are both the image 'a\.png'"):
        matched(["x/a.png", "y/a.png"], coco)


def test_image_of_another_size_than_its_record_is_an_error(tmp_path):
    Image.new("L", (4, 5)).save(tmp_path / "a.png")
    images = matched([str(tmp_path / "a.png")], coco_of(tmp_path, "a.png"))
    assert "4 x 5 pixels, but its record says 4 x 4" in str(images[0])
