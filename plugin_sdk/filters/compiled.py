"""A whole list of filters, compiled: what a subscription asks for each event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plugin_sdk.events import Event
from plugin_sdk.filters.dialects import parse_filter, together
from plugin_sdk.filters.explanations import FailedClause
from plugin_sdk.filters.positions import Position


class CompiledFilters:
    """Filters that all must hold; made by `compile_filters`.

    `types` are globs (`*` for any characters), one of which the type of every matching event fits; None where the
    filters say nothing of use about it. An index by type can pass by what fits none of them without asking. `size`
    counts the filters, attributes, fields and values: with the size of an event it says how long a match may take.
    """

    __slots__ = ("_filter", "size", "types")

    def __init__(self, filters: Sequence[Mapping[str, Any]]) -> None:
        root = Position("filters")
        if not isinstance(filters, (list, tuple)):
            root.refuse("must be an array of filters; without any, write []")
        self._filter = together([parse_filter(value, root.item(index)) for index, value in enumerate(filters)])
        self.types: tuple[str, ...] | None = self._filter.types
        self.size = root.spent.nodes

    def matches(self, event: Event) -> bool:
        """Whether all filters hold; without any, always. Never raises, and never waits."""
        return self._filter.matches(event)

    def explain(self, event: Event) -> list[FailedClause]:
        """The clauses that keep the event from matching, in the order of the filters; empty exactly where it matches.

        For `any` and `$or`, which fail only as a whole, the clauses of every alternative. This is for people: it takes
        far longer than `matches`.
        """
        return self._filter.explain(event)


def compile_filters(filters: Sequence[Mapping[str, Any]]) -> CompiledFilters:
    """Check and compile a list of filters, each an object with one dialect as its key.

    What is compiled keeps no part of `filters`. The bounds: 32 levels, 1000 filters, attributes, fields and values in
    all, 4096 characters in one string, 16 stars in one wildcard.

    Raises:
        FilterError: something is not allowed; the sentence starts with its position.
    """
    return CompiledFilters(filters)
