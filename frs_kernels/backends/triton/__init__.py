"""The Triton kernels."""

NAME = "triton"


def unavailable() -> str | None:
    return "the Triton kernels are not part of this version yet"


def refuses(terms) -> str | None:
    return None
