"""The dialects: what one filter can be, parsed into a test and an explanation.

Source: CloudEvents Subscriptions API 1.0 (draft), section 3.2.4 "Filters", for `exact`, `prefix`, `suffix`, `all`,
`any` and `not`; for `pattern`, see there. Where the draft leaves a choice:

* `exact`, `prefix` and `suffix` name at least one attribute, and all that they name must hold. They compare the
  attribute's canonical string, `specversion` and extensions included, case-sensitively. An attribute that an event
  lacks does not hold. `data` is no attribute.
* An unknown dialect is refused, and so is `sql`, which the draft leaves optional.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import eq, methodcaller
from typing import Any, Final

from plugin_sdk.events import Event
from plugin_sdk.filters.attributes import DATA, check_name, text_of
from plugin_sdk.filters.explanations import FailedClause, shown
from plugin_sdk.filters.pattern import Pattern
from plugin_sdk.filters.positions import Position, nearest
from plugin_sdk.filters.type_globs import Globs, glob, narrowest, union

Matches = Callable[[Event], bool]


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter: whether an event matches, why not (empty where it does), and of which types it can be."""

    matches: Matches
    explain: Callable[[Event], list[FailedClause]]
    types: Globs


def parse_filter(value: Any, position: Position) -> Filter:
    """Compile one filter, whatever its dialect.

    Raises:
        FilterError: it is not allowed; the error names the position and says why.
    """
    position.count()
    position = position.deeper()
    place, name, body = position.only_entry(value, "the dialect")
    parse = DIALECTS.get(name)
    if parse is None:
        place.refuse(f"there is no such dialect. {nearest(name, DIALECTS)}")
    return parse(body, place)


def together(filters: list[Filter]) -> Filter:
    """The filter that holds where all of them do; without any, always."""
    return Filter(
        matches=_all_of([one.matches for one in filters]),
        explain=lambda event: [clause for one in filters for clause in one.explain(event)],
        types=narrowest(one.types for one in filters),
    )


def _all(value: Any, position: Position) -> Filter:
    return together([parse_filter(item, place) for place, item in position.items(value, "filters")])


def _any(value: Any, position: Position) -> Filter:
    filters = [parse_filter(item, place) for place, item in position.items(value, "filters")]

    def explain(event: Event) -> list[FailedClause]:
        failed = [one.explain(event) for one in filters]
        return [clause for clauses in failed for clause in clauses] if all(failed) else []

    return Filter(_any_of([one.matches for one in filters]), explain, union(one.types for one in filters))


def _not(value: Any, position: Position) -> Filter:
    matches = parse_filter(value, position).matches
    failed = FailedClause(position.path, "the filter under 'not' matches")
    return Filter(lambda event: not matches(event), lambda event: [failed] if matches(event) else [], None)


def _pattern(value: Any, position: Position) -> Filter:
    pattern = Pattern(value, position)
    return Filter(pattern.matches, pattern.explain, pattern.types)


def _comparing(
    holding: Callable[[str], Callable[[str], bool]], miss: str, type_glob: Callable[[str], str | None]
) -> Callable[[Any, Position], Filter]:
    """The dialect that compares attributes with texts.

    Args:
        holding: Makes of a text what tells whether an attribute's string fits it.
        miss: What an attribute does that does not fit, before the text.
        type_glob: Makes of a text the glob of the types that fit it.
    """

    def parse(value: Any, position: Position) -> Filter:
        return together([one(place, name, text) for place, name, text in position.entries(value, "attributes")])

    def one(position: Position, name: str, value: Any) -> Filter:
        if name == DATA:
            position.refuse("is no attribute: the dialect 'pattern' reaches into data")
        check_name(name, position)
        wanted = position.text(value, "the value")
        read, holds = text_of(name), holding(wanted)

        def matches(event: Event) -> bool:
            text = read(event)
            return text is not None and holds(text)

        def explain(event: Event) -> list[FailedClause]:
            if matches(event):
                return []
            text = read(event)
            found = f"{name} is missing" if text is None else f"{name} is {shown(text)}, which {miss} {shown(wanted)}"
            return [FailedClause(position.path, found)]

        only = type_glob(wanted) if name == "type" else None
        return Filter(matches, explain, None if only is None else (only,))

    return parse


def _all_of(tests: list[Matches]) -> Matches:
    several = tuple(tests)

    def matches(event: Event) -> bool:
        for one in several:  # noqa: SIM110 - all() would make a generator for every event
            if not one(event):
                return False
        return True

    return tests[0] if len(tests) == 1 else matches


def _any_of(tests: list[Matches]) -> Matches:
    several = tuple(tests)

    def matches(event: Event) -> bool:
        for one in several:  # noqa: SIM110 - as above
            if one(event):
                return True
        return False

    return tests[0] if len(tests) == 1 else matches


DIALECTS: Final[dict[str, Callable[[Any, Position], Filter]]] = {
    "exact": _comparing(lambda text: partial(eq, text), "is not", glob),
    "prefix": _comparing(
        lambda text: methodcaller("startswith", text), "does not start with", lambda text: glob(text, "")
    ),
    "suffix": _comparing(lambda text: methodcaller("endswith", text), "does not end with", lambda text: glob("", text)),
    "all": _all,
    "any": _any,
    "not": _not,
    "pattern": _pattern,
}
"""By the key that stands in a filter."""
