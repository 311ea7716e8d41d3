"""Schedules over HTTP: look at them, pause, resume, run now, and what each firing was."""

from __future__ import annotations

from typing import Final

from host.api.endpoint import Answer, Call, Endpoint, PageQuery, View
from host.api.envelope import rfc3339, written
from host.control.access import Role
from host.observe.audit import Audit
from host.scheduling.schedule_store import ScheduleRecord
from host.scheduling.scheduler import Scheduler

BASE: Final = "/api/v1/schedules"
# A schedule's id is `plugin/name`; clients may send the slash as it is, or as %2F.
ONE: Final = BASE + "/{id:[a-z0-9-]+(?:/|%2F)[a-z0-9_]+}"


class ScheduleView(View):
    """A schedule; `state` is `active`, `paused` by a person, or `suspended` with its plugin."""

    id: str
    plugin: str
    name: str
    rule: str
    timezone: str
    misfire: str
    state: str
    paused: bool
    next_due: str | None
    last_due: str | None
    last_fired: str | None


class FiringView(View):
    """One firing: the instant it was due, when it was appended, and as which event."""

    due: str
    fired_at: str
    event_id: str
    by_hand: bool


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
                "List its firings, the newest first.",
                Role.VIEWER,
                self.runs,
                query=PageQuery,
                response=FiringView,
                many=True,
            ),
        )

    async def list(self, call: Call) -> Answer:
        """Every schedule, by id."""
        found = await self._scheduler.all()
        query: PageQuery = call.query
        shown = found[query.offset : query.offset + query.limit]
        return Answer.paged([_view(one) for one in shown], query, len(found))

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
        return Answer(
            FiringView(due=firing.due, fired_at=written(firing.fired_at), event_id=firing.event_id, by_hand=True)
        )

    async def runs(self, call: Call) -> Answer:
        """A page of its firings."""
        query: PageQuery = call.query
        found, total = await self._scheduler.runs(call.path("id"), query.offset, query.limit)
        views = [
            FiringView(due=one.due, fired_at=written(one.fired_at), event_id=one.event_id, by_hand=one.by_hand)
            for one in found
        ]
        return Answer.paged(views, query, total)

    async def _changed(self, call: Call, action: str, record: ScheduleRecord) -> Answer:
        await self._audit.record(actor=call.actor, action=action, target=record.id, detail={}, outcome="done")
        return Answer(_view(record))


def _view(record: ScheduleRecord) -> ScheduleView:
    return ScheduleView(
        id=record.id,
        plugin=record.plugin,
        name=record.name,
        rule=record.rule_text,
        timezone=record.schedule.timezone,
        misfire=record.schedule.misfire,
        state="paused" if record.paused else "active" if record.active else "suspended",
        paused=record.paused,
        next_due=rfc3339(record.next_due),
        last_due=rfc3339(record.last_due),
        last_fired=rfc3339(record.last_fired),
    )
