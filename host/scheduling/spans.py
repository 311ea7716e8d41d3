"""What lies between two instants of a schedule: how many firings came due, and which are the newest.

A schedule of every second may have been down for a year, so nothing here costs more than some thousand steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from typing import Final

from host.scheduling.rules import instants, multiple_at_or_before
from plugin_sdk.schedule import Schedule

MAX_COUNTED: Final = 500
"""Instants of a cron rule that are counted, or as many as are asked for; more are said to be as many.

Those of an interval are counted exactly.
"""


@dataclass(frozen=True, slots=True)
class Span:
    """Instants that follow each other: the first, how many, and the newest of them in order."""

    first: float
    count: int
    newest: tuple[float, ...]

    def split(self, kept: int) -> tuple[Span | None, tuple[float, ...]]:
        """The newest `kept` instants, and what came before them; more than `newest` has are never kept."""
        taken = self.newest[-kept:]
        if self.count <= len(taken):
            return None, taken
        before = self.newest[: -len(taken)]
        return Span(self.first, self.count - len(taken), before or (self.first,)), taken

    @property
    def last(self) -> float:
        """The newest."""
        return self.newest[-1]


def span(schedule: Schedule, first: float, until: float, *, anchor: float, newest: int) -> Span | None:
    """What came due from `first`, which is an instant of the schedule, to `until`; None where that is before.

    Of the newest instants at least `newest` are named, where there are so many.

    Raises:
        ScheduleRuleError: the rule cannot be evaluated (any more).
    """
    if first > until:
        return None
    if schedule.every is not None:
        return _of_interval(schedule, schedule.every, first, until, anchor, newest)
    counted = max(MAX_COUNTED, newest + 1)  # one more than are named, so that what is left out is always counted
    found = tuple(islice(_from(schedule, first, until, anchor), counted + 1))
    if len(found) <= counted:
        return Span(first, len(found), found)
    return Span(first, counted, _newest(schedule, first, until, anchor, newest))


def _from(schedule: Schedule, first: float, until: float, anchor: float) -> Iterator[float]:
    following = instants(schedule, first, anchor=anchor)
    return chain((first,), takewhile(lambda instant: instant <= until, following))


def _of_interval(schedule: Schedule, every: float, first: float, until: float, anchor: float, newest: int) -> Span:
    last = until if schedule.ends_at is None else min(until, schedule.ends_at)
    numbered = multiple_at_or_before(last, anchor, every)
    # `first` need not be a multiple: the interval may have been anchored anew since.
    following = multiple_at_or_before(first, anchor, every) + 1
    count = 1 + max(0, numbered - following + 1)
    named = tuple(anchor + number * every for number in range(max(following, numbered - newest + 1), numbered + 1))
    return Span(first, count, named if len(named) >= min(newest, count) else (first, *named))


def _newest(schedule: Schedule, first: float, until: float, anchor: float, newest: int) -> tuple[float, ...]:
    """The newest instants, where there are more than can be walked: found by halving the time they lie in."""
    low, high = first, until
    while high - low > 1:
        middle = (low + high) / 2
        following = instants(schedule, middle, anchor=anchor)
        counted = sum(1 for _ in islice(takewhile(lambda instant: instant <= until, following), newest + 1))
        low, high = (middle, high) if counted > newest else (low, middle)
    # The last second before `high` may hold one more, and instants lie at least a second apart.
    found = takewhile(lambda instant: instant <= until, instants(schedule, low, anchor=anchor))
    return tuple(islice(found, 2 * newest + 2))[-newest:]
