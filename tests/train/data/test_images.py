"""Image files: orientation, bit depth, alpha, palettes, damaged files, and file names."""

import io
import os
import struct
import unicodedata

import numpy as np
import pytest
import torch
from coco_files import content, write
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from frs_train.data.coco import read_coco
from frs_train.data.dataset import CocoDetection
from frs_train.data.images import read_image
from frs_train.errors import UserError

ORIENTATION = 0x0112
RAMP = torch.arange(256, dtype=torch.uint8)


def saved(image, path, **options):
    image.save(path, **options)
    return path


def turned_file(path, orientation):
    """Writes an image of 100 x 40 pixels with a white left half and an EXIF orientation."""
    image = Image.new("RGB", (100, 40))
    image.paste((255, 255, 255), (0, 0, 50, 40))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(image, path, exif=exif)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_image_is_rotated_once_by_its_orientation(tmp_path, ending):
    image = read_image(turned_file(tmp_path / f"a.{ending}", 6), 40, 100)
    assert image.shape == (3, 100, 40)
    assert image[:, :45].min() > 200 and image[:, 55:].max() < 50  # rotated clockwise by 90 degrees


@pytest.mark.parametrize(
    ("orientation", "white"),
    [(2, np.s_[:, :, 55:]), (3, np.s_[:, :, 55:]), (4, np.s_[:, :, :45]), (1, np.s_[:, :, :45])],
)
def test_mirrored_and_rotated_images(tmp_path, orientation, white):
    assert read_image(turned_file(tmp_path / "a.jpg", orientation), 100, 40)[white].min() > 200


def test_record_with_the_size_before_rotation_is_refused(tmp_path):
    path = turned_file(tmp_path / "a.jpg", 6)
    with pytest.raises(UserError, match=r"40 x 100 pixels after .*EXIF.*\(100 x 40 before.*says 100 x 40"):
        read_image(path, 100, 40)
    with pytest.raises(UserError, match="says 41 x 100"):
        read_image(path, 41, 100)


@pytest.mark.parametrize(("ending", "type"), [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2")])
def test_sixteen_bits_of_grey_are_scaled_to_eight(tmp_path, ending, type):
    ramp = np.arange(65536, dtype=type).reshape(256, 256)
    image = read_image(saved(Image.fromarray(ramp), tmp_path / f"a.{ending}"), 256, 256)
    expected = torch.from_numpy(np.rint(ramp / 257).astype(np.uint8))
    assert torch.equal(image.as_subclass(torch.Tensor), expected.expand(3, -1, -1))


@pytest.mark.parametrize(("mode", "type"), [("I", np.int32), ("F", np.float32)])
def test_pixels_of_unknown_range_are_refused(tmp_path, mode, type):
    path = saved(Image.fromarray(np.zeros((4, 4), dtype=type)), tmp_path / "a.tif")
    with pytest.raises(UserError, match=rf"a\.tif has .*mode {mode} of Pillow\)"):
        read_image(path, 4, 4)


def ramp(mode):
    return Image.fromarray(RAMP.numpy()[None]).convert(mode)


def with_alpha(mode):
    image = ramp(mode)
    image.putalpha(Image.fromarray(RAMP.numpy()[None, ::-1].copy()))
    return image


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (ramp("L"), {}),
        (ramp("P"), {}),
        (ramp("P"), {"transparency": 7}),
        (ramp("P"), {"transparency": bytes(range(256))}),
        (ramp("RGB"), {"transparency": (9, 9, 9)}),
        (with_alpha("RGB"), {}),
        (with_alpha("L"), {}),
    ],
    ids=["grey", "palette", "one clear colour", "clear colours", "colour key", "alpha", "grey with alpha"],
)
def test_alpha_does_not_change_colours(tmp_path, image, options):
    if image.mode == "P":
        image.putpalette([value for grey in range(256) for value in (grey, grey, grey)])
    image = read_image(saved(image, tmp_path / "a.png", **options), 256, 1)
    assert torch.equal(image.as_subclass(torch.Tensor), RAMP.expand(3, 1, -1))


def test_one_bit_and_cmyk_images(tmp_path):
    white = read_image(saved(Image.new("1", (2, 2), 1), tmp_path / "a.png"), 2, 2)
    assert white.unique().tolist() == [255]
    red = read_image(saved(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), tmp_path / "a.tif"), 2, 2)
    assert red[:, 0, 0].tolist() == [255, 0, 0]


def test_first_frame_of_an_animation_is_used(tmp_path):
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("white", "black")]
    path = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(path, 3, 3).min() == 255


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = saved(Image.new("1", (20000, 10000)), tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png cannot be read: .*200000000 pixels"):
        read_image(path, 20000, 10000)


def test_large_image_is_read_without_a_warning(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    assert read_image(saved(Image.new("L", (10, 10)), tmp_path / "a.png"), 10, 10).shape == (3, 10, 10)
    assert not recwarn


@pytest.mark.parametrize(
    "error", [struct.error("x"), OverflowError("x"), MemoryError(), EOFError(), KeyError(3)]
)
def test_any_exception_of_a_decoder_becomes_an_error_with_the_file(tmp_path, monkeypatch, error):
    path = saved(Image.new("L", (4, 4)), tmp_path / "a.png")

    def broken(_):
        raise error

    monkeypatch.setattr(ImageOps, "exif_transpose", broken)
    with pytest.raises(UserError, match=r"a\.png cannot be read: \w+"):
        read_image(path, 4, 4)


def test_signal_while_decoding_is_not_an_image_error(tmp_path, monkeypatch):
    path = saved(Image.new("L", (4, 4)), tmp_path / "a.png")

    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageOps, "exif_transpose", stopped)
    with pytest.raises(KeyboardInterrupt):
        read_image(path, 4, 4)


def files():
    """A small file of each kind, with features that decoders fail on: EXIF, palettes, tiles, frames."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010F] = "maker"
    picture = Image.effect_mandelbrot((24, 16), (-2, -1, 1, 1), 20).convert("RGB")
    kinds = {
        "PNG": {"exif": exif},
        "JPEG": {"exif": exif},
        "GIF": {"save_all": True, "append_images": [picture.rotate(90)]},
        "TIFF": {"exif": exif, "compression": "tiff_lzw"},
        "WEBP": {"exif": exif},
        "BMP": {},
        "PPM": {},
        "TGA": {},
        "ICO": {},
    }
    for kind, options in kinds.items():
        file = io.BytesIO()
        picture.save(file, kind, **options)
        yield file.getvalue()
    for mode in ("P", "1", "LA", "I;16"):
        file = io.BytesIO()
        picture.convert("L").convert(mode).save(file, "PNG")
        yield file.getvalue()


damage = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8)


@settings(max_examples=300, deadline=None)
@given(
    data=st.sampled_from(list(files())) | st.binary(max_size=64),
    bytes_changed=damage,
    kept=st.just(1.0) | st.floats(0, 1),
    header=st.booleans(),
    size=st.sampled_from([(24, 16), (16, 24)]),
)
def test_damaged_file_raises_only_user_errors(tmp_path, data, bytes_changed, kept, header, size):
    spoilt = bytearray(data)
    for place, value in bytes_changed if data else ():
        spoilt[int(place * (min(64, len(data)) if header else len(data)))] = value
    path = tmp_path / "image"
    path.write_bytes(spoilt[: round(kept * len(spoilt))])
    try:
        image = read_image(path, *size)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert image.shape == (3, size[1], size[0]) and image.dtype == torch.uint8


def dataset_of(folder, name):
    images = [{"id": 1, "file_name": name, "width": 4, "height": 4}]
    return CocoDetection(read_coco(write(folder, content(images=images))), folder)


def test_windows_file_names_are_found(tmp_path):
    (tmp_path / "images").mkdir()
    saved(Image.new("L", (4, 4), 9), tmp_path / "images" / "0.png")
    assert dataset_of(tmp_path, "images\\0.png")[0, None][0].unique().tolist() == [9]


def test_backslash_may_be_part_of_a_name(tmp_path):
    saved(Image.new("L", (4, 4), 9), tmp_path / "a\\b.png")
    assert dataset_of(tmp_path, "a\\b.png")[0, None][0].unique().tolist() == [9]


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_names_in_either_normal_form_are_found(tmp_path, stored, asked):
    (tmp_path / unicodedata.normalize(stored, "café")).mkdir()
    saved(Image.new("L", (4, 4), 9), tmp_path / unicodedata.normalize(stored, "café/é.png"))
    assert dataset_of(tmp_path, unicodedata.normalize(asked, "café/é.png"))[0, None][0].max() == 9


def test_name_that_differs_in_case_is_mentioned(tmp_path):
    saved(Image.new("L", (4, 4)), tmp_path / "Image.PNG")
    if os.path.exists(tmp_path / "image.png"):
        pytest.skip("this file system takes large and small letters for one")
    with pytest.raises(
        UserError, match=r"'image\.png' \(there is 'Image\.PNG', whose letters differ in case\)"
    ):
        dataset_of(tmp_path, "image.png")


@pytest.mark.parametrize("name", ["x" * 5000, "../" * 2000 + "a", "a.png/b.png", ".", "\x01\n"])
def test_impossible_file_names_are_missing(tmp_path, name):
    saved(Image.new("L", (4, 4)), tmp_path / "a.png")
    with pytest.raises(UserError, match="1 of 1 images .* are missing"):
        dataset_of(tmp_path, name)
