"""Text that may contain anything (names of classes, files and runs), made fit to be drawn, printed and
stored."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with control characters and lone surrogates, which neither fonts nor UTF-8 have, as
    escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, most: int = 60) -> str:
    """The beginning of a text that may be too long for a message."""
    return text if len(text) <= most else f"{text[:most]}..."
