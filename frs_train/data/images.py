"""Image files: found under the names that annotation files give them, and read as RGB of 8 bits, upright."""

from __future__ import annotations

import os
import unicodedata
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torchvision import tv_tensors
from torchvision.transforms import v2

from frs_train.errors import UserError


def find(folder: Path, name: str) -> str | None:
    """The name of an image's file below a folder, or None if there is none.

    It may differ from the name given in its separators (files written on Windows) and in the Unicode normal
    form (a Mac decomposes what it stores).
    """
    slashed = name.replace("\\", "/")
    forms = (unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))
    return next((n for n in (name, slashed, *forms) if os.path.isfile(folder / n)), None)


def resembling(folder: Path, name: str) -> str | None:
    """A file beside the missing one whose name differs in the case of letters alone."""

    def plain(text: str) -> str:
        return unicodedata.normalize("NFC", text).casefold()

    wanted = folder / name.replace("\\", "/")
    try:
        return next((n for n in sorted(os.listdir(wanted.parent)) if plain(n) == plain(wanted.name)), None)
    except (OSError, ValueError):
        return None


def read_image(path: Path, width: int, height: int) -> tv_tensors.Image:
    """An image as RGB, uint8 [3, height, width].

    It is turned as its EXIF orientation says; 16 bits of grey are scaled to 8; alpha is dropped, the colours
    stay as they are stored; of an animation the first frame is taken.

    Raises `UserError` if the file is damaged, of another size, or of a kind whose range nobody knows.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is raised
            with Image.open(path) as file:
                return tv_tensors.Image(v2.functional.pil_to_tensor(_decoded(path, file, (width, height))))
    except UserError:
        raise
    except Exception as error:  # in a damaged file Pillow's decoders raise whatever they come across
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"Image {path} cannot be read: {reason}. The file is missing, damaged, too large or no image; "
            "replace it or remove its record, then go on with --resume."
        ) from None


def _decoded(path: Path, file: Image.Image, wanted: tuple[int, int]) -> Image.Image:
    """The image upright and in RGB. One that is of another size whichever way it is turned is not decoded."""
    found, turned = file.size, ""
    if sorted(found) == sorted(wanted):
        upright = ImageOps.exif_transpose(file)
        if upright.size == wanted:
            return _rgb(path, upright)
        if upright.size != found:
            turned = f" once it is turned as its EXIF orientation says ({found[0]} x {found[1]} before that)"
        found = upright.size
    raise UserError(
        f"Image {path} is {found[0]} x {found[1]} pixels{turned}, but its record says {wanted[0]} x "
        f"{wanted[1]}. Its boxes would be wrong: correct the record or the file."
    )


def _rgb(path: Path, image: Image.Image) -> Image.Image:
    """Pillow would cut 16 bits off at 255, and cannot know what is white among 32 bits or floats."""
    if image.mode in ("I", "F"):
        kind = "a whole number of 32 bits" if image.mode == "I" else "a floating point number"
        raise UserError(
            f"Image {path} holds {kind} a pixel (Pillow's mode {image.mode}), and nothing says which is "
            "white. Save it with 8 or 16 bits."
        )
    if image.mode.startswith("I;16"):
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    return image.convert("RGB")
