"""Which events a subscription takes: event type patterns compiled once, and an optional exact source."""

from __future__ import annotations

import re
from collections.abc import Sequence

from plugin_sdk.description import type_pattern
from plugin_sdk.events import Event


class Filter:
    """Takes an event whose type is one of `types` (`*` stands for any characters) and whose source fits.

    `exact` holds the types without a star, so that an index can find the filter without asking it.
    """

    __slots__ = ("_globs", "exact", "patterns", "source")

    def __init__(self, types: Sequence[str], source: str | None = None) -> None:
        self.exact = frozenset(glob for glob in types if "*" not in glob)
        self.patterns = tuple(glob for glob in types if "*" in glob)
        self.source = source
        self._globs = (
            re.compile("|".join(f"(?:{type_pattern(glob)})" for glob in self.patterns)) if self.patterns else None
        )

    def takes_type(self, event_type: str) -> bool:
        """Whether events of this type can match at all."""
        return event_type in self.exact or (self._globs is not None and self._globs.fullmatch(event_type) is not None)

    def takes(self, event: Event) -> bool:
        """Whether the subscription gets this event."""
        return self.takes_type(event.type) and (self.source is None or event.source == self.source)
