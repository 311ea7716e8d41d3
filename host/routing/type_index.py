"""An index of who takes which event types, so that an event costs what it matches and not what is installed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MAX_KNOWN_LENGTH: Final = 256
"""Characters of a type that is remembered: whoever publishes chooses it, and may choose megabytes."""

MAX_KNOWN_TYPES: Final = 4096
"""Types whose candidates are remembered; at the bound the memory is emptied and filled anew."""


def most_selective(*choices: Sequence[str] | None) -> Sequence[str]:
    """Of several lists of type patterns that must all be met, the one that narrows types down the most."""
    return max((globs for globs in choices if globs is not None), key=_selectivity)


def _selectivity(globs: Sequence[str]) -> float:
    """How many characters a type must have in common with the broadest pattern of a list."""
    return min((float(glob.index("*")) if "*" in glob else math.inf for glob in globs), default=math.inf)


class TypeIndex(Generic[T]):
    """Items by the type patterns (`*` for any characters) under which they want to be found.

    Whoever is found may still refuse: the index knows a pattern only up to its first star.
    """

    def __init__(self) -> None:
        self._globs: dict[T, tuple[str, ...]] = {}
        self._exact: dict[str, dict[T, None]] = {}
        self._prefixed: dict[str, dict[T, None]] = {}
        self._lengths: Counter[int] = Counter()
        self._known: dict[str, tuple[T, ...]] = {}

    def __len__(self) -> int:
        return len(self._globs)

    def add(self, item: T, globs: Sequence[str]) -> None:
        """Have `item` found for types that may fit one of `globs`."""
        self._globs[item] = tuple(dict.fromkeys(globs))
        for glob in self._globs[item]:
            prefix, star, _ = glob.partition("*")
            if star:
                self._prefixed.setdefault(prefix, {})[item] = None
                self._lengths[len(prefix)] += 1
            else:
                self._exact.setdefault(prefix, {})[item] = None
        self._known.clear()

    def remove(self, item: T) -> None:
        """Have it found no more; one that is not there changes nothing."""
        for glob in self._globs.pop(item, ()):
            prefix, star, _ = glob.partition("*")
            table = self._prefixed if star else self._exact
            found = table.get(prefix, {})  # two of its patterns may begin alike
            found.pop(item, None)
            if not found:
                table.pop(prefix, None)
            if star:
                self._lengths[len(prefix)] -= 1
                self._lengths += Counter()  # drops the lengths that nobody has any more
        self._known.clear()

    def candidates(self, event_type: str) -> tuple[T, ...]:
        """Who may take events of this type, each once."""
        found = self._known.get(event_type)
        return found if found is not None else self._look_up(event_type)

    def _look_up(self, event_type: str) -> tuple[T, ...]:
        items = dict(self._exact.get(event_type, {}))
        for length in self._lengths:
            if length <= len(event_type):
                items.update(self._prefixed.get(event_type[:length], {}))
        found = tuple(items)
        if len(event_type) <= MAX_KNOWN_LENGTH:
            if len(self._known) >= MAX_KNOWN_TYPES:
                self._known.clear()
            self._known[event_type] = found
        return found
