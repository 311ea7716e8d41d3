"""Microseconds to find who takes an event, among 10,000 subscriptions and among 10.

Five subscriptions take each event in both: by its exact type, by a prefix, by a filter on an attribute, by a pattern
over its data, and everything. The others have types, prefixes and filters of their own. Every tenth event has a type
that was never seen, so that what the index remembers does not decide alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from typing import Any, Final

from benchmarks.measure import Figure
from host.routing.filters import Filter
from host.routing.type_index import TypeIndex
from plugin_sdk.events import Event, new_event
from plugin_sdk.filters import compile_filters

NAME: Final = "match"
MANY: Final = 10_000
FEW: Final = 10
EVENTS: Final = 5_000
ROUNDS: Final = 9
KNOWN_TYPES: Final = 500
MATCHING: Final = 5


class _Taker:
    """Whoever subscribes; what the index finds."""

    def __init__(self, types: tuple[str, ...], *filters: dict[str, Any]) -> None:
        self.filter = Filter(types, filters=compile_filters(filters) if filters else None)


def run() -> Iterable[Figure]:
    """Measure; the medians of rounds that alternate between the sides."""
    many, few = _index(MANY), _index(FEW)
    ours: list[float] = []
    theirs: list[float] = []
    for round_ in range(ROUNDS):
        events = _events(round_)
        ours.append(_match(many, events))
        theirs.append(_match(few, events))
    return [Figure(NAME, statistics.median(ours), "us", f"{FEW} subscriptions", statistics.median(theirs))]


def _index(size: int) -> TypeIndex[_Taker]:
    takers = [
        _Taker(("*",)),
        _Taker(("order.*",)),
        _Taker(("order.*",), {"exact": {"subject": "user-1"}}),
        _Taker(("*",), {"prefix": {"type": "order."}}, {"pattern": {"data": {"total": [{"numeric": [">", 10]}]}}}),
        _Taker(("order.placed.*",)),
    ]
    for number in range(size - len(takers)):
        kind = f"service-{number % 997}.thing-{number}"
        takers.append(
            (
                _Taker((kind,)),
                _Taker((f"{kind}.*",)),
                _Taker((f"{kind}.*",), {"exact": {"subject": "user-1"}}),
                _Taker(("*",), {"prefix": {"type": kind}}, {"pattern": {"data": {"total": [5]}}}),
            )[number % 4]
        )
    index: TypeIndex[_Taker] = TypeIndex()
    for taker in takers:
        index.add(taker, taker.filter.types)
    return index


def _events(round_: int) -> list[Event]:
    return [
        new_event(
            f"order.placed.{number % KNOWN_TYPES}" if number % 10 else f"order.placed.{round_}-{number}",
            source="/shop",
            subject="user-1",
            data={"total": 20},
        )
        for number in range(EVENTS)
    ]


def _match(index: TypeIndex[_Taker], events: list[Event]) -> float:
    started = time.perf_counter()
    for event in events:
        found = 0
        for taker in index.candidates(event.type):
            found += taker.filter.takes(event)
        assert found == MATCHING
    return (time.perf_counter() - started) / len(events) * 1e6
