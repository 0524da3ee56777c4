"""The reference under plain autograd: it runs on every device, for every dtype and layout."""

NAME = "eager"


def unavailable() -> str | None:
    return None


def unavailable_on(device) -> str | None:
    return None


def unsupported(inputs) -> str | None:
    return None
