"""When a schedule comes due: pure functions of a rule and an instant. Instants are seconds since the epoch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import takewhile
from typing import Final

from host.scheduling.cron_rules import CronRule
from host.scheduling.errors import ScheduleRuleError
from plugin_sdk.schedule import Schedule, instant_of

LAST_INSTANT: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""Nothing comes due after this: later instants cannot be written down."""
_SHARE_BITS: Final = 32


def next_due(schedule: Schedule, after: float, *, anchor: float) -> float | None:
    """The first instant strictly after `after` at which the schedule comes due; None where there is none.

    `anchor` is what intervals count from, so that a restart does not shift them.

    Raises:
        ScheduleRuleError: the rule is malformed, or its time zone unknown.
    """
    return next(instants(schedule, after, anchor=anchor), None)


def instants(schedule: Schedule, after: float, *, anchor: float) -> Iterator[float]:
    """All instants strictly after `after`, in order; errors as in `next_due`."""
    start, end = schedule.starts_at, schedule.ends_at
    if start is not None:
        after = max(after, math.nextafter(start, -math.inf))
    last = LAST_INSTANT if end is None else min(end, LAST_INSTANT)
    return takewhile(lambda instant: instant <= last, _unbounded(schedule, after, anchor))


def check_rule(schedule: Schedule) -> None:
    """Refuse a rule that can never be evaluated.

    Raises:
        ScheduleRuleError: the rule is malformed, or names no instant at all.
    """
    if next_due(schedule, 0.0, anchor=schedule.starts_at or 0.0) is None:
        raise ScheduleRuleError(
            f"schedule '{schedule.name}': '{describe_rule(schedule)}' names a date that never comes"
        )


def describe_rule(schedule: Schedule) -> str:
    """The rule as people read it."""
    if schedule.cron is not None:
        return schedule.cron
    return f"every {schedule.every:g} s" if schedule.every is not None else f"at {schedule.at}"


def multiple_at_or_before(instant: float, anchor: float, every: float) -> int:
    """The number of the last instant of an interval that is not after `instant`; `anchor` has the number 0.

    Numbered instants are exactly `anchor + number * every`, however the division rounds.
    """
    number = math.floor((instant - anchor) / every)
    while anchor + number * every > instant:
        number -= 1
    while anchor + (number + 1) * every <= instant:
        number += 1
    return number


def dispatch_at(schedule_id: str, due: float, jitter: float) -> float:
    """When a firing is dispatched: `due`, held back by a share of `jitter` that is always the same for it."""
    if not jitter:
        return due
    digest = hashlib.blake2b(f"{schedule_id}/{written(due)}".encode(), digest_size=_SHARE_BITS // 8).digest()
    return due + jitter * (int.from_bytes(digest) / (1 << _SHARE_BITS))


def written(due: float) -> str:
    """An instant as it stands in events: RFC 3339, to the millisecond."""
    return datetime.fromtimestamp(due, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _unbounded(schedule: Schedule, after: float, anchor: float) -> Iterator[float]:
    if schedule.cron is not None:
        try:
            return CronRule(schedule.cron, schedule.timezone).after(after)
        except ValueError as error:
            raise ScheduleRuleError(f"schedule '{schedule.name}': {error}") from None
    if schedule.every is not None:
        return _multiples(after, anchor, schedule.every)
    try:
        due = instant_of(schedule.at or "")
    except ValueError as error:
        raise ScheduleRuleError(
            f"schedule '{schedule.name}': '{schedule.at}' is no instant ({error}): write it as 2026-11-20T10:00:00Z"
        ) from None
    return iter((due,) if due > after else ())


def _multiples(after: float, anchor: float, every: float) -> Iterator[float]:
    number = multiple_at_or_before(after, anchor, every)
    while True:
        number += 1
        yield anchor + number * every
