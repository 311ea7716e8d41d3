"""Answers that are none: the service that tries them has to return them."""


def surrogate(_target: str) -> str:
    """Half of a surrogate pair, which nothing can encode."""
    return "\ud800"


def large(_target: str) -> str:
    """More than an answer may have."""
    return "x" * (5 * 2**20)


def nothing(_target: str) -> str:
    """A value of another type than was promised."""
    return {"nested": [float("nan")]}  # type: ignore[return-value]  # the point
