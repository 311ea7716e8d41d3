"""Schedules over HTTP: look at them, pause, resume, run now, and what each firing was."""

from __future__ import annotations

from typing import Final

from host.api.endpoint import Answer, Call, Endpoint, PageQuery, View
from host.api.envelope import rfc3339, written
from host.identity.access import Role
from host.observe.audit import Audit
from host.scheduling.firing_store import FiringRecord
from host.scheduling.schedule_store import ScheduleRecord
from host.scheduling.scheduler import Scheduler

BASE: Final = "/api/v1/schedules"
# A schedule's id is `plugin/name`; clients may send the slash as it is, or as %2F.
ONE: Final = BASE + "/{id:[^/]+(?:/[^/]+)?}"


class ScheduleView(View):
    """A schedule: its rule, its policies (spans in seconds), and when it fires.

    `state` is `active`, `paused` by a person, `suspended` with its plugin, or `broken`, and `error` says why. `nextDue`
    does not have the jitter; `queuedDue` is a firing that waits for an earlier one.
    """

    id: str
    plugin: str
    name: str
    rule: str
    timezone: str
    start: str | None
    end: str | None
    misfire: str
    misfire_limit: int
    grace_seconds: float
    overlap: str
    max_running: int
    jitter_seconds: float
    max_runtime_seconds: float | None
    state: str
    error: str | None
    paused: bool
    next_due: str | None
    queued_due: str | None
    last_due: str | None
    last_fired: str | None


class FiringView(View):
    """A firing, or a run of instants that did not fire (`outcome` is `skipped`, `count` at least how many).

    The instants are `due` to `lastDue`; `firedAt` is when it was decided, `latenessSeconds` how long that was after
    the first was to be dispatched, and `reason` why it was late or skipped.
    """

    due: str
    last_due: str
    fired_at: str
    event_id: str | None
    by_hand: bool
    outcome: str
    reason: str | None
    count: int
    lateness_seconds: float


class Schedules:
    """The handlers."""

    def __init__(self, scheduler: Scheduler, audit: Audit) -> None:
        self._scheduler = scheduler
        self._audit = audit

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "GET",
                BASE,
                "listSchedules",
                "List the schedules.",
                Role.VIEWER,
                self.list,
                query=PageQuery,
                response=ScheduleView,
                many=True,
            ),
            Endpoint(
                "POST",
                ONE + "/pause",
                "pauseSchedule",
                "Fire it no more.",
                Role.OPERATOR,
                self.pause,
                response=ScheduleView,
            ),
            Endpoint(
                "POST",
                ONE + "/resume",
                "resumeSchedule",
                "Fire it by its rule again.",
                Role.OPERATOR,
                self.resume,
                response=ScheduleView,
            ),
            Endpoint(
                "POST",
                ONE + "/run",
                "runSchedule",
                "Fire it now.",
                Role.OPERATOR,
                self.run,
                response=FiringView,
            ),
            Endpoint(
                "GET",
                ONE + "/runs",
                "listFirings",
                "List its firings and what did not fire and why, the newest first.",
                Role.VIEWER,
                self.runs,
                query=PageQuery,
                response=FiringView,
                many=True,
            ),
        )

    async def list(self, call: Call) -> Answer:
        """Every schedule, by id."""
        query: PageQuery = call.query
        found, total = await self._scheduler.page(query.offset, query.limit)
        return Answer.paged([_view(one) for one in found], query, total)

    async def pause(self, call: Call) -> Answer:
        """Pause it."""
        record = await self._scheduler.pause(call.path("id"))
        return await self._changed(call, "schedule.pause", record)

    async def resume(self, call: Call) -> Answer:
        """Resume it."""
        record = await self._scheduler.resume(call.path("id"))
        return await self._changed(call, "schedule.resume", record)

    async def run(self, call: Call) -> Answer:
        """Fire it now."""
        firing = await self._scheduler.run_now(call.path("id"))
        await self._audit.record(
            actor=call.actor,
            action="schedule.run",
            target=call.path("id"),
            detail={"event": firing.event_id},
            outcome="done",
        )
        return Answer(_firing_view(firing))

    async def runs(self, call: Call) -> Answer:
        """A page of its history."""
        query: PageQuery = call.query
        found, total = await self._scheduler.runs(call.path("id"), query.offset, query.limit)
        return Answer.paged([_firing_view(one) for one in found], query, total)

    async def _changed(self, call: Call, action: str, record: ScheduleRecord) -> Answer:
        await self._audit.record(actor=call.actor, action=action, target=record.id, detail={}, outcome="done")
        return Answer(_view(record))


def _view(record: ScheduleRecord) -> ScheduleView:
    schedule = record.schedule
    return ScheduleView(
        id=record.id,
        plugin=record.plugin,
        name=record.name,
        rule=record.rule_text,
        timezone=schedule.timezone,
        start=schedule.start,
        end=schedule.end,
        misfire=schedule.misfire,
        misfire_limit=schedule.misfire_limit,
        grace_seconds=schedule.grace,
        overlap=schedule.overlap,
        max_running=schedule.max_running,
        jitter_seconds=schedule.jitter,
        max_runtime_seconds=schedule.max_runtime,
        state=record.state,
        error=record.error or None,
        paused=record.paused,
        next_due=rfc3339(record.next_due),
        queued_due=rfc3339(record.queued_due),
        last_due=rfc3339(record.last_due),
        last_fired=rfc3339(record.last_fired),
    )


def _firing_view(firing: FiringRecord) -> FiringView:
    return FiringView(
        due=firing.due,
        last_due=firing.last_due or firing.due,
        fired_at=written(firing.fired_at),
        event_id=firing.event_id,
        by_hand=firing.by_hand,
        outcome=firing.outcome,
        reason=firing.reason or None,
        count=firing.count,
        lateness_seconds=firing.lateness,
    )
