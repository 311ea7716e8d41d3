"""When a schedule comes due: pure functions of a rule and an instant.

Cron rules are cronsim's (Debian semantics): at the gap of spring a missed time fires right after it, at the
fold of autumn once. APScheduler's own cron trigger is not used: it skips days around a change of the clock.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from host.scheduling.errors import ScheduleRuleError
from plugin_sdk.description import Schedule


def next_due(schedule: Schedule, after: float, *, anchor: float) -> float | None:
    """The first instant strictly after `after` at which the schedule comes due; None where there is none.

    Instants are seconds since the epoch. `anchor` is when the schedule was first adopted: intervals count
    from it, so that a restart does not shift them.

    Raises:
        ScheduleRuleError: the rule is malformed.
    """
    if schedule.cron is not None:
        return _next_cron(schedule, schedule.cron, after)
    if schedule.every is not None:
        passed = math.floor(round((after - anchor) / schedule.every, 9))
        return anchor + (passed + 1) * schedule.every
    due = _instant(schedule, schedule.at or "")
    return due if due > after else None


def check_rule(schedule: Schedule) -> None:
    """Refuse a rule that can never be evaluated.

    Raises:
        ScheduleRuleError: the rule is malformed, or names a date that never comes.
    """
    next_due(schedule, 0.0, anchor=0.0)


def describe_rule(schedule: Schedule) -> str:
    """The rule as people read it."""
    if schedule.cron is not None:
        return schedule.cron
    return f"every {schedule.every:g} s" if schedule.every is not None else f"at {schedule.at}"


def _next_cron(schedule: Schedule, rule: str, after: float) -> float | None:
    try:
        zone = ZoneInfo(schedule.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ScheduleRuleError(
            f"schedule '{schedule.name}': '{schedule.timezone}' is no time zone: write one of the IANA "
            "database, such as 'Europe/Berlin'"
        ) from None
    try:
        return next(CronSim(rule, datetime.fromtimestamp(after, zone))).timestamp()
    except CronSimError as error:
        raise ScheduleRuleError(
            f"schedule '{schedule.name}': '{rule}' is no cron rule ({error}): write five fields, such as '0 8 * * mon'"
        ) from None
    except StopIteration:
        if after > 0:
            return None
        raise ScheduleRuleError(f"schedule '{schedule.name}': '{rule}' names a date that never comes") from None


def _instant(schedule: Schedule, text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise ValueError("it has no offset")
    except ValueError as error:
        raise ScheduleRuleError(
            f"schedule '{schedule.name}': '{text}' is no instant ({error}): write it as 2026-11-20T10:00:00Z"
        ) from None
    return found.astimezone(UTC).timestamp()
