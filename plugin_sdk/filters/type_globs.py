"""Which event types filters can match at all, as globs, so that an index by type can pass them by.

A glob stands for all types that it fits, `*` for any characters. None says nothing about the type, which always holds.
"""

from __future__ import annotations

from collections.abc import Iterable

Globs = tuple[str, ...] | None


def glob(*pieces: str) -> str | None:
    """The glob of a value whose `pieces` have any characters between them.

    None where it would say nothing, or where a literal star would be taken for a wildcard.
    """
    if any("*" in piece for piece in pieces) or not any(pieces):
        return None
    return "*".join(pieces)


def union(found: Iterable[Globs]) -> Globs:
    """The globs of alternatives: all of theirs, or None where one of them can be of any type."""
    together: dict[str, None] = {}
    for globs in found:
        if globs is None:
            return None
        together.update(dict.fromkeys(globs))
    return tuple(together)


def narrowest(found: Iterable[Globs]) -> Globs:
    """The globs of conditions that hold together: those that let the fewest types through, as far as one can tell."""
    usable = [globs for globs in found if globs is not None]
    return min(usable, key=_width, default=None)


def _width(globs: tuple[str, ...]) -> tuple[bool, int, int]:
    """Exact types before globs, then globs that spell out more, then fewer of them."""
    open_ones = [one for one in globs if "*" in one]
    spelt_out = min((len(one.replace("*", "")) for one in open_ones), default=0)
    return bool(open_ones), -spelt_out, len(globs)
