"""What goes wrong with schedules."""

from __future__ import annotations

from host.errors import BusbarError, ErrorKind


class SchedulingError(BusbarError):
    """Base of the errors of this folder."""

    code = "scheduling_error"


class ScheduleRuleError(SchedulingError):
    """A rule that names no instants: a malformed cron line, an unknown time zone, a date that never comes."""

    code = "schedule_rule_invalid"
    kind = ErrorKind.UNPROCESSABLE


class ScheduleNotFoundError(SchedulingError):
    """No schedule of that id."""

    code = "schedule_not_found"
    kind = ErrorKind.NOT_FOUND

    def __init__(self, schedule: str) -> None:
        super().__init__(f"schedule {schedule} not found: GET /api/v1/schedules lists them")
