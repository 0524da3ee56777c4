"""Image files: located by the names in annotation files, and read as upright 8-bit RGB."""

from __future__ import annotations

import contextlib
import os
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from torchvision import tv_tensors
from torchvision.transforms import v2

from frs_train.errors import UserError


def find_image(folder: Path, name: str) -> str | None:
    """The name of an image's file below a folder, or None if there is none.

    The name may differ from the given one in separators (annotations written on Windows) and in Unicode
    normal form (macOS stores names decomposed).
    """
    slashed = name.replace("\\", "/")
    forms = (unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))
    return next((n for n in (name, slashed, *forms) if os.path.isfile(folder / n)), None)


def resembling(folder: Path, name: str) -> str | None:
    """A file in the same folder whose name differs from the missing one only in the case of letters."""

    def plain(text: str) -> str:
        return unicodedata.normalize("NFC", text).casefold()

    wanted = folder / name.replace("\\", "/")
    try:
        return next((n for n in sorted(os.listdir(wanted.parent)) if plain(n) == plain(wanted.name)), None)
    except (OSError, ValueError):
        return None


SUFFIXES = frozenset(
    ".apng .avif .bmp .dib .gif .jfif .jp2 .jpe .jpeg .jpg "
    ".pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
)
"""The endings by which image files are recognized in a folder."""


def image_files(folder: Path) -> Iterator[str]:
    """The image files below a folder, sorted; their names begin with the folder's. Links are followed; hidden
    files and folders are left out.

    Raises `UserError` if a folder cannot be read.
    """

    def refuse(error: OSError):
        raise UserError(f"Folder {error.filename} cannot be read: {error.strerror}.")

    seen = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        for name in [] if real in seen else sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                yield os.path.join(place, name)
        seen.add(real)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as `read_image` returns it, from the header of the file.

    Raises `UserError` if the file is no image.
    """
    with _reported(path), Image.open(path) as file:
        # The method for PNG would decode the pixels, in search of an orientation behind them.
        orientation = Image.Image.getexif(file).get(ExifTags.Base.Orientation)
        turned = orientation in (5, 6, 7, 8) and file.format != "TIFF"  # Pillow turns a TIFF itself
        return file.size[::-1] if turned else file.size


def read_image(path: Path, width: int, height: int) -> tv_tensors.Image:
    """An image as RGB, uint8 [3, height, width].

    The image is rotated by its EXIF orientation; 16-bit grey is scaled to 8 bits; alpha is dropped and the
    colours stay as stored; an animation yields its first frame.

    Raises `UserError` if the file is damaged, has another size, or a pixel type of unknown range.
    """
    with _reported(path), Image.open(path) as file:
        return _tensor(_decoded(path, file, (width, height)))


def read_image_of_any_size(path: Path) -> tv_tensors.Image:
    """An image as `read_image` returns it, where no record says which size it has."""
    with _reported(path), Image.open(path) as file:
        return _tensor(_rgb(path, ImageOps.exif_transpose(file)))


def _tensor(image: Image.Image) -> tv_tensors.Image:
    return tv_tensors.Image(v2.functional.pil_to_tensor(image))


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Reports whatever Pillow raises in the block as a `UserError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is an exception
            yield
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"Image {path} cannot be read: {reason}. The file is missing, damaged, too large or not an image."
        ) from None


def _decoded(path: Path, file: Image.Image, wanted: tuple[int, int]) -> Image.Image:
    """The image, upright and in RGB. An image that has another size in both orientations is not decoded."""
    size, turned = file.size, ""
    if sorted(size) == sorted(wanted):
        upright = ImageOps.exif_transpose(file)
        if upright.size == wanted:
            return _rgb(path, upright)
        if upright.size != size:
            turned = f" after rotation by its EXIF orientation ({size[0]} x {size[1]} before)"
        size = upright.size
    raise UserError(
        f"Image {path} is {size[0]} x {size[1]} pixels{turned}, but its record says {wanted[0]} x "
        f"{wanted[1]}. Its boxes would be wrong."
    )


def _rgb(path: Path, image: Image.Image) -> Image.Image:
    """The image in RGB. Pillow would clip 16-bit grey at 255; 32-bit integers and floats have no defined
    white."""
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise UserError(
            f"Image {path} has {kind} as pixels (mode {image.mode} of Pillow), and does not define which "
            "value is white. Save it with 8 or 16 bits."
        )
    if image.mode.startswith("I;16"):
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    return image.convert("RGB")
