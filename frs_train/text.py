"""Names that others chose (classes, files, runs), made fit to be drawn, printed, and written as UTF-8."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with control characters and lone surrogates, which no font and no file has, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, most: int = 60) -> str:
    """What a message shows of a value that may be as long as a file."""
    return text if len(text) <= most else f"{text[:most]}..."
