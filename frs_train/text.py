"""Functions that make any text (names of classes, files and runs) safe to print and draw; tables of text."""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """The text with unprintable characters (control characters, lone surrogates) replaced by escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, most: int = 60) -> str:
    """The text, cut after `most` characters."""
    return text if len(text) <= most else f"{text[:most]}..."


def markdown(rows: Sequence[Sequence[str]], rules: Sequence[str] = ()) -> str:
    """A table in Markdown, whose first row holds the titles; `rules` are the cells of the line below it."""
    lines = [rows[0], rules or ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
