"""The reference under plain autograd: runs everywhere, on every dtype, layout and device."""

NAME = "eager"


def unavailable() -> str | None:
    return None


def unsupported(inputs) -> str | None:
    return None
