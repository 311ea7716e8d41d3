"""The scheduler: APScheduler is its timer, the store has the due times, the log gets the firings.

A firing is an event, appended in the transaction that moves the schedule's next due time. So a crash fires it
once or leaves it due, and two wake-ups for one instant fire it once.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

import structlog
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from host.errors import BusbarError
from host.routing.event_log import Appended
from host.routing.subscriptions import FIRING_TYPE, firing_source
from host.scheduling import schedule_store as store
from host.scheduling.errors import ScheduleNotFoundError
from host.scheduling.rules import next_due
from host.scheduling.schedule_store import FiringRecord, ScheduleRecord
from host.storage.database import Database
from plugin_sdk.clock import Clock
from plugin_sdk.description import Schedule
from plugin_sdk.events import Event, new_event

LONGEST_SLEEP: Final = timedelta(seconds=60)
"""The timer looks at the wall clock at least so often, so that a step of it is noticed."""
RETRY_SECONDS: Final = 5.0
"""Wait before a firing that could not be written is tried again."""

_log = structlog.get_logger(__name__)


class AppendsWithin(Protocol):
    """A log that can append as part of the caller's transaction."""

    def append_within(self, connection: sqlite3.Connection, event: Event) -> Appended:
        """Append an event; it becomes visible with the transaction's commit."""
        ...


class Scheduler:
    """Fires the schedules of running plugins."""

    def __init__(self, database: Database, log: AppendsWithin, clock: Clock) -> None:
        self._database = database
        self._log = log
        self._clock = clock
        self._timer = AsyncIOScheduler(
            timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        )
        self._firing = asyncio.Lock()

    def start(self) -> None:
        """Start the timer; schedules wake when their plugin is adopted."""
        self._timer.start()

    async def stop(self) -> None:
        """Stop the timer; a firing that is being written is finished first."""
        async with self._firing:
            self._timer.shutdown(wait=False)

    # -- plugins come and go

    async def adopt(self, plugin: str, schedules: Sequence[Schedule]) -> None:
        """Have these schedules fire: the plugin runs.

        An unchanged rule keeps its next due time; what was missed while nothing ran fires once, or not, as
        its misfire policy says. A new or changed rule starts now, and one that is gone is forgotten.

        Raises:
            ScheduleRuleError: a rule is malformed; nothing is changed.
        """
        now = self._clock.now().timestamp()
        wanted = {f"{plugin}/{schedule.name}": schedule for schedule in schedules}

        def write(connection: sqlite3.Connection) -> list[ScheduleRecord]:
            known = {record.id: record for record in store.of_plugin(connection, plugin)}
            store.delete(connection, [gone for gone in known if gone not in wanted])
            records = [_adopted(plugin, schedule, known.get(key), now) for key, schedule in wanted.items()]
            for record in records:
                store.save(connection, record)
            return records

        for record in await self._database.write(write):
            self._arm(record)

    async def suspend(self, plugin: str) -> None:
        """Fire nothing of a plugin until it is adopted again."""

        def write(connection: sqlite3.Connection) -> list[ScheduleRecord]:
            records = store.of_plugin(connection, plugin)
            for record in records:
                store.save(connection, replace(record, active=False))
            return records

        for record in await self._database.write(write):
            self._disarm(record.id)

    async def forget(self, plugin: str) -> None:
        """Drop the schedules of a plugin and their history."""

        def write(connection: sqlite3.Connection) -> list[str]:
            gone = [record.id for record in store.of_plugin(connection, plugin)]
            store.delete(connection, gone)
            return gone

        for schedule in await self._database.write(write):
            self._disarm(schedule)

    # -- by hand

    async def all(self) -> list[ScheduleRecord]:
        """Every schedule, by id."""
        return [store.record_of(row) for row in await self._database.read(store.SELECT + " ORDER BY id")]

    async def pause(self, schedule: str) -> ScheduleRecord:
        """Fire it no more until it is resumed.

        Raises:
            ScheduleNotFoundError: there is none of that id.
        """
        record = await self._change(schedule, paused=True)
        self._disarm(schedule)
        return record

    async def resume(self, schedule: str) -> ScheduleRecord:
        """Fire it by its rule again, from now on; errors as in `pause`."""
        record = await self._change(schedule, paused=False)
        self._arm(record)
        return record

    async def run_now(self, schedule: str) -> FiringRecord:
        """Fire it now, beside its rule; errors as in `pause`."""
        now = self._clock.now()

        def write(connection: sqlite3.Connection) -> FiringRecord:
            record = store.find(connection, schedule)
            if record is None:
                raise ScheduleNotFoundError(schedule)
            return self._fire_within(connection, record, now, now, by_hand=True)

        return await self._database.write(write)

    async def runs(self, schedule: str, offset: int, limit: int) -> tuple[list[FiringRecord], int]:
        """A page of its firings, the newest first, and how many are kept; errors as in `pause`."""
        if not await self._database.read(store.SELECT + " WHERE id = ?", (schedule,)):
            raise ScheduleNotFoundError(schedule)
        counted = await self._database.read(store.COUNT_FIRINGS, (schedule,))
        rows = await self._database.read(store.FIRINGS, (schedule, limit, offset))
        found = [FiringRecord(row["due"], row["fired_at"], row["event_id"], bool(row["by_hand"])) for row in rows]
        return found, int(counted[0][0])

    # -- firing

    async def fire_due(self, schedule: str) -> ScheduleRecord | None:
        """Fire a schedule if it is due, and move it on; the schedule as it stands then.

        Safe to call at any time and any number of times.
        """
        now = self._clock.now()

        def write(connection: sqlite3.Connection) -> ScheduleRecord | None:
            record = store.find(connection, schedule)
            if record is None or not record.waiting or record.next_due is None:
                return record
            if record.next_due > now.timestamp():
                return record
            due = datetime.fromtimestamp(record.next_due, UTC)
            self._fire_within(connection, record, due, now, by_hand=False)
            # What else was missed until now is one with this firing.
            moved = replace(
                record,
                next_due=next_due(record.schedule, now.timestamp(), anchor=record.anchor),
                last_due=record.next_due,
                last_fired=now.timestamp(),
            )
            store.save(connection, moved)
            return moved

        return await self._database.write(write)

    def _fire_within(
        self,
        connection: sqlite3.Connection,
        record: ScheduleRecord,
        due: datetime,
        now: datetime,
        *,
        by_hand: bool,
    ) -> FiringRecord:
        text = due.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event_id = f"{record.id}/{text}" + ("/by-hand" if by_hand else "")
        event = new_event(
            FIRING_TYPE,
            source=firing_source(record.plugin),
            subject=record.name,
            id=event_id,
            time=due,
            data={"plugin": record.plugin, "schedule": record.name, "due": text},
        )
        self._log.append_within(connection, event)
        firing = FiringRecord(text, now.timestamp(), event_id, by_hand)
        store.note_firing(connection, record.id, firing)
        return firing

    async def _wake(self, schedule: str) -> None:
        """The timer says that a schedule may be due."""
        async with self._firing:
            try:
                record = await self.fire_due(schedule)
            except BusbarError as error:
                _log.warning("firing_not_written", schedule=schedule, error=error.message, retry_in=RETRY_SECONDS)
                self._set(schedule, self._clock.now() + timedelta(seconds=RETRY_SECONDS))
                return
        if record is not None:
            self._arm(record)

    def _arm(self, record: ScheduleRecord) -> None:
        if not record.waiting or record.next_due is None:
            self._disarm(record.id)
            return
        due = datetime.fromtimestamp(record.next_due, UTC)
        self._set(record.id, min(due, self._clock.now() + LONGEST_SLEEP))

    def _set(self, schedule: str, at: datetime) -> None:
        self._timer.add_job(self._wake, DateTrigger(at), args=(schedule,), id=schedule, replace_existing=True)

    def _disarm(self, schedule: str) -> None:
        try:
            self._timer.remove_job(schedule)
        except JobLookupError:
            return  # it was not armed, or is firing right now and will find itself not waiting

    async def _change(self, schedule: str, *, paused: bool) -> ScheduleRecord:
        now = self._clock.now().timestamp()

        def write(connection: sqlite3.Connection) -> ScheduleRecord:
            record = store.find(connection, schedule)
            if record is None:
                raise ScheduleNotFoundError(schedule)
            changed = replace(record, paused=paused)
            if not paused:
                changed = replace(changed, next_due=next_due(record.schedule, now, anchor=record.anchor))
            store.save(connection, changed)
            return changed

        return await self._database.write(write)


def _adopted(plugin: str, schedule: Schedule, known: ScheduleRecord | None, now: float) -> ScheduleRecord:
    if known is None or known.schedule != schedule:
        return ScheduleRecord(
            id=f"{plugin}/{schedule.name}",
            plugin=plugin,
            name=schedule.name,
            schedule=schedule,
            anchor=now,
            next_due=next_due(schedule, now, anchor=now),
            active=True,
            paused=known is not None and known.paused,
        )
    missed = known.next_due is not None and known.next_due <= now
    due = known.next_due
    if missed and schedule.misfire == "skip":
        due = next_due(schedule, now, anchor=known.anchor)
    return replace(known, active=True, next_due=due)
