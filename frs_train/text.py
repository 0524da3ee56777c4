"""Functions that make any text (names of classes, files and runs) safe to print and draw."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with unprintable characters (control characters, lone surrogates) replaced by escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, most: int = 60) -> str:
    """The text, cut after `most` characters."""
    return text if len(text) <= most else f"{text[:most]}..."
