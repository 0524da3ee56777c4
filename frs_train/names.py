"""Names that others chose (classes, files, runs), made fit to be drawn, printed, and written as UTF-8."""

from __future__ import annotations

import os
from collections.abc import Sequence

LONGEST = 200  # bytes of a file name without its ending; file systems take 255 in all


def printable(text: str) -> str:
    """The text with control characters and lone surrogates, which no font and no file has, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def picture_names(files: Sequence[str]) -> list[str]:
    """The name of a PNG for each image file, all for one folder: the image's, with _ for /, and with a number
    where that is taken (also by one that differs in capitals only: not all file systems see a difference)."""
    taken: set[str] = set()
    names = []
    for file in files:
        flat = printable(os.path.splitext(file)[0]).replace("/", "_")
        stem = name = flat.encode()[:LONGEST].decode(errors="ignore")
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(f"{name}.png")
    return names
