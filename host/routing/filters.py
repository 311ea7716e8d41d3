"""Which events a subscription takes: type patterns compiled once, an optional exact source, and the filter language."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from host.routing.event_log import StoredEvent
from host.routing.type_index import most_selective
from plugin_sdk.description import type_pattern
from plugin_sdk.events import Event
from plugin_sdk.filters import CompiledFilters

COSTLY: Final = 50_000
"""Size of a subscription's filters times the bytes of an event, above which the plugin's own worker looks whether
they match: a filter is its author's, and so is the time that it takes on a large event."""


class Filter:
    """Takes an event whose type is one of `types`, whose source fits, and for which all of `filters` hold.

    In `types`, `*` stands for any characters. The attribute `types` has the patterns by which an index finds the
    filter: the given ones, or those that follow from its filters where they say more.
    """

    __slots__ = ("_filters", "_globs", "exact", "patterns", "source", "types")

    def __init__(self, types: Sequence[str], source: str | None = None, filters: CompiledFilters | None = None) -> None:
        self.exact = frozenset(glob for glob in types if "*" not in glob)
        self.patterns = tuple(glob for glob in types if "*" in glob)
        self.source = source
        self.types = tuple(most_selective(types, filters.types if filters else None))
        self._filters = filters
        self._globs = (
            re.compile("|".join(f"(?:{type_pattern(glob)})" for glob in self.patterns)) if self.patterns else None
        )

    def takes_type(self, event_type: str) -> bool:
        """Whether events of this type can match at all."""
        return event_type in self.exact or (self._globs is not None and self._globs.fullmatch(event_type) is not None)

    def costly(self, stored: StoredEvent) -> bool:
        """Whether a look at this event may take longer than the host's loop can be kept: some 0.1 us a unit."""
        return self._filters is not None and self._filters.size * len(stored.body) > COSTLY

    def admits(self, stored: StoredEvent) -> bool:
        """Whether the subscription gets this event, as far as the host looks: what is costly, the worker looks at."""
        event = stored.event
        return (
            self.takes_type(event.type)
            and (self.source is None or event.source == self.source)
            and (self._filters is None or self.costly(stored) or self._filters.matches(event))
        )

    def takes(self, event: Event) -> bool:
        """Whether the subscription gets this event."""
        return (
            self.takes_type(event.type)
            and (self.source is None or event.source == self.source)
            and (self._filters is None or self._filters.matches(event))
        )
