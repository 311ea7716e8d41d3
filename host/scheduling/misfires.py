"""Which of the instants that came due fire, and which were missed for good: a pure function of schedule and time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final

from host.scheduling.rules import dispatch_at, instants, next_due
from host.scheduling.spans import Span, span
from plugin_sdk.schedule import Schedule

MAX_SCANNED: Final = 256
"""Instants within one jitter that are looked at one by one; the next look goes on behind them."""


class Reason(StrEnum):
    """Why an instant fired late or did not fire; empty where nothing was special."""

    ON_TIME = ""
    LATE = "missed beyond grace"
    BY_HAND = "by hand"
    QUEUED = "queued"
    MISFIRE_SKIP = "misfire skip"
    MISFIRE_ONCE = "misfire once"
    MISFIRE_LIMIT = "misfire limit"
    OVERLAP = "overlap"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    RULE_CHANGED = "rule changed"
    CONFLICT = "event conflict"


@dataclass(frozen=True, slots=True)
class Due:
    """An instant that is to fire, and why it comes late, if it does."""

    due: float
    reason: Reason = Reason.ON_TIME


@dataclass(frozen=True, slots=True)
class Skipped:
    """Instants that did not fire: from which to which, how many, and why."""

    first: float
    last: float
    count: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class CameDue:
    """What became of the instants up to `seen`: some fire, the others were skipped. `next_due` is behind them."""

    fire: tuple[Due, ...]
    skipped: tuple[Skipped, ...]
    seen: float
    next_due: float | None


def came_due(
    schedule_id: str, schedule: Schedule, first: float, now: float, *, anchor: float, adopted_at: float | None
) -> CameDue | None:
    """What becomes of the instants from `first`, the next one that was due, up to `now`; None where none is due.

    What is later than `grace` was missed, and the misfire policy decides; jitter is no lateness. What was missed
    before `adopted_at` was so because the plugin did not run.

    Raises:
        ScheduleRuleError: the rule cannot be evaluated (any more).
    """
    until = _dispatched(schedule_id, schedule, first, now, anchor)
    if first > until:
        return None
    missed_before = now - schedule.jitter - schedule.grace
    fire: tuple[Due, ...]
    skipped: tuple[Skipped, ...]
    if first >= missed_before:
        fire, skipped = _each(schedule, first, until, missed_before, anchor)
    elif schedule.misfire == "once":
        fire = (Due(first, Reason.LATE),)
        following = next_due(schedule, first, anchor=anchor)
        rest = None if following is None else span(schedule, following, until, anchor=anchor, newest=1)
        skipped = () if rest is None else (_skipped(rest, Reason.MISFIRE_ONCE),)
    elif schedule.misfire == "skip":
        fire, skipped = _without_missed(schedule, first, until, missed_before, anchor, adopted_at)
    else:
        fire, skipped = _each(schedule, first, until, missed_before, anchor)
    return CameDue(fire, skipped, until, next_due(schedule, until, anchor=anchor))


def _dispatched(schedule_id: str, schedule: Schedule, first: float, now: float, anchor: float) -> float:
    """Up to which instant everything is dispatched: one that jitter still holds back keeps those behind it, too."""
    until = now - schedule.jitter
    if not schedule.jitter:
        return until
    following = (first,) if first > until else ()
    for instant in (*following, *islice(instants(schedule, max(first, until), anchor=anchor), MAX_SCANNED)):
        if instant > now or dispatch_at(schedule_id, instant, schedule.jitter) > now:
            break
        until = instant
    return until


def _each(
    schedule: Schedule, first: float, until: float, missed_before: float, anchor: float
) -> tuple[tuple[Due, ...], tuple[Skipped, ...]]:
    """Fire every instant, at most the newest `misfire_limit`: what was missed for long must not come as a flood."""
    found = span(schedule, first, until, anchor=anchor, newest=schedule.misfire_limit + 1)
    if found is None:
        return (), ()
    before, taken = found.split(schedule.misfire_limit)
    fire = tuple(Due(due, Reason.LATE if due < missed_before else Reason.ON_TIME) for due in taken)
    return fire, () if before is None else (_skipped(before, Reason.MISFIRE_LIMIT),)


def _without_missed(
    schedule: Schedule, first: float, until: float, missed_before: float, anchor: float, adopted_at: float | None
) -> tuple[tuple[Due, ...], tuple[Skipped, ...]]:
    """Fire only what was not missed."""
    in_time = next(instants(schedule, max(first, missed_before - 1), anchor=anchor), None)
    while in_time is not None and in_time < missed_before:
        in_time = next_due(schedule, in_time, anchor=anchor)
    last_missed = until if in_time is None else min(until, in_time - 0.5)  # instants lie a second apart
    missed = span(schedule, first, max(first, last_missed), anchor=anchor, newest=1)
    skipped: tuple[Skipped, ...] = ()
    if missed is not None:
        suspended = adopted_at is not None and missed.last <= adopted_at
        skipped = (_skipped(missed, Reason.SUSPENDED if suspended else Reason.MISFIRE_SKIP),)
    if in_time is None or in_time > until:
        return (), skipped
    fire, flood = _each(schedule, in_time, until, missed_before, anchor)
    return fire, (*skipped, *flood)


def _skipped(found: Span, reason: Reason) -> Skipped:
    return Skipped(found.first, found.last, found.count, reason)
