"""What becomes of a schedule's row when its plugin comes to run, or the clock went back: pure functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from host.scheduling.errors import ScheduleRuleError
from host.scheduling.rules import next_due
from host.scheduling.schedule_store import ScheduleRecord
from plugin_sdk.schedule import Schedule

_TOLERATED: Final = 1.0
"""Seconds by which an interval's next instant may be farther than the interval: an anchor's own rounding."""
_SMALLEST: Final = 0.001
"""What instants are told apart by in the ids of events."""


def adopted(plugin: str, schedule: Schedule, known: ScheduleRecord | None, now: float) -> ScheduleRecord:
    """The row of a schedule that is to fire from now on.

    With the same rule it goes on where it stood, and what came due meanwhile is for the misfire policy; the next
    instant is worked out anew, for the rules of a time zone change. A new or changed rule starts now. A rule that
    cannot be evaluated is an error of the row.
    """
    if known is None or known.schedule.rule != schedule.rule:
        fresh = ScheduleRecord(
            id=f"{plugin}/{schedule.name}",
            plugin=plugin,
            name=schedule.name,
            schedule=schedule,
            anchor=round(now, 3) if schedule.starts_at is None else schedule.starts_at,
            next_due=None,
            active=True,
            paused=known is not None and known.paused,
            seen=now,
            adopted_at=now,
        )
        return _evaluated(fresh)
    taken_up = replace(known, schedule=schedule, active=True, adopted_at=now, error="")
    settled = reanchored(taken_up, now)
    return settled if settled is not taken_up or known.seen is None else _evaluated(taken_up)


def reanchored(record: ScheduleRecord, now: float, step: float = 0.0) -> ScheduleRecord:
    """The row after the clock went back by -`step`; the same object where nothing has to change.

    A cron rule keeps its next instant, so that none fires twice. An interval would be silent until the clock is
    there again: it counts anew instead, in step with where it was if `step` is known.
    """
    every, due = record.schedule.every, record.next_due
    if every is None or due is None:
        return record
    begin = max(now, record.schedule.starts_at or 0.0)
    if due <= begin + every + _TOLERATED:
        return record
    rest = due + step - now
    anchor = round(now + (rest if 0 < rest <= every else every), 3)
    # The id of a firing is its instant: one that fired before the clock went back would be taken for the same.
    phase = (anchor - record.anchor) % every
    if min(phase, every - phase) < _SMALLEST / 2:
        anchor = round(anchor + _SMALLEST, 3)
    return _evaluated(replace(record, anchor=anchor, seen=max(now, anchor - every)))


def _evaluated(record: ScheduleRecord) -> ScheduleRecord:
    try:
        due = next_due(record.schedule, record.seen or 0.0, anchor=record.anchor)
    except ScheduleRuleError as error:
        return replace(record, error=error.message)
    return replace(record, next_due=due)
