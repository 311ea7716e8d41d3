"""The scheduler: which schedules fire, and when they are looked at.

APScheduler has the timer, the store has the due times, the log gets the firings. A look fires whatever is due; one is
made when the next schedule is to be dispatched, when something changed, and at least every minute, because the clock
on the wall may have been set.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from host.errors import BusbarError
from host.observe.clock_watch import ClockWatch
from host.scheduling import firing_store
from host.scheduling import schedule_store as store
from host.scheduling.adoption import adopted, reanchored
from host.scheduling.dispatcher import Dispatcher, LogOperations
from host.scheduling.errors import ScheduleNotFoundError
from host.scheduling.firing_store import FiringRecord
from host.scheduling.misfires import Reason, Skipped
from host.scheduling.overlaps import FiringCancels, FiringOutcomes, LogOutcomes
from host.scheduling.rules import next_due
from host.scheduling.schedule_store import ScheduleRecord
from host.scheduling.spans import span
from host.storage.database import Database
from plugin_sdk.clock import Clock
from plugin_sdk.schedule import Schedule

LONGEST_SLEEP: Final = 60.0
"""Seconds after which the wall clock is looked at in any case, so that a step of it is noticed."""
SHORTEST_SLEEP: Final = 0.01
QUEUE_SECONDS: Final = 1.0
"""How often a firing that waits for an earlier one is looked after."""
RETRY_SECONDS: Final = 5.0
"""Wait before a firing that could not be written is tried again."""

_log = structlog.get_logger(__name__)


class Scheduler:
    """Fires the schedules of running plugins.

    Args:
        database: Where schedules and their history are.
        log: Gets the firings.
        clock: Says what is due.
        outcomes: Says which firings are settled; by default the cursors and retries in the database.
        cancels: Ends deliveries for `cancel-previous`.
    """

    def __init__(
        self,
        database: Database,
        log: LogOperations,
        clock: Clock,
        *,
        outcomes: FiringOutcomes | None = None,
        cancels: FiringCancels | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._dispatcher = Dispatcher(database, log, outcomes or LogOutcomes(database), cancels)
        self._watch = ClockWatch(clock)
        # Stepped back, but not all schedules could be told yet: that is tried again.
        self._stepped_back = 0.0
        self._looking = asyncio.Lock()
        self._poked = asyncio.Event()

    async def run(self) -> None:
        """Look, and sleep until the timer or someone else pokes, or the longest sleep is over; until cancelled.

        Schedules fire once their plugin is adopted. May be called again where it ended.
        """
        timer = AsyncIOScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True})
        timer.start()
        try:
            await self._look_for_ever(timer)
        finally:
            timer.shutdown(wait=False)

    async def looked(self) -> None:
        """Wait until a firing that is being written is."""
        async with self._looking:
            return

    def close(self) -> None:
        """Free what it has beside its loop, which has ended."""
        self._dispatcher.close()

    def poke(self) -> None:
        """Look now: something changed, such as a delivery that a firing waits for."""
        self._poked.set()

    # -- plugins come and go

    async def adopt(self, plugin: str, schedules: Sequence[Schedule]) -> None:
        """Have these schedules fire: the plugin runs.

        An unchanged rule goes on where it stood, and what was missed while nothing ran is for its misfire policy. A
        new or changed rule starts now, and one that is gone is forgotten. A rule that cannot be evaluated is marked
        and logged; the others fire.
        """
        now = self._now()
        wanted = {f"{plugin}/{schedule.name}": schedule for schedule in schedules}

        def write(connection: sqlite3.Connection) -> list[ScheduleRecord]:
            known = {record.id: record for record in store.of_plugin(connection, plugin)}
            store.delete(connection, [gone for gone in known if gone not in wanted])
            records = [adopted(plugin, schedule, known.get(key), now) for key, schedule in wanted.items()]
            for record in records:
                before = known.get(record.id)
                if before is not None and before.queued_due is not None and record.queued_due is None:
                    _note_unqueued(connection, before, Reason.RULE_CHANGED, now)
                store.save(connection, record)
            return records

        for record in await self._database.write(write):
            if record.error:
                _log.error("schedule_broken", schedule=record.id, error=record.error)
        self.poke()

    async def suspend(self, plugin: str) -> None:
        """Fire nothing of a plugin until it is adopted again."""

        def write(connection: sqlite3.Connection) -> None:
            for record in store.of_plugin(connection, plugin):
                store.save(connection, replace(record, active=False))

        await self._database.write(write)

    async def forget(self, plugin: str) -> None:
        """Drop the schedules of a plugin and their history."""

        def write(connection: sqlite3.Connection) -> None:
            store.delete(connection, [record.id for record in store.of_plugin(connection, plugin)])

        await self._database.write(write)

    async def plugins(self) -> set[str]:
        """The plugins that have schedules, whether they run or not."""
        return {row[0] for row in await self._database.read("SELECT DISTINCT plugin FROM schedules")}

    # -- by hand

    async def page(self, offset: int, limit: int) -> tuple[list[ScheduleRecord], int]:
        """A page of all schedules, by id, and how many there are."""
        return await store.page(self._database, offset, limit)

    async def pause(self, schedule: str) -> ScheduleRecord:
        """Fire it no more until it is resumed; a firing that waits for an earlier one is given up.

        Raises:
            ScheduleNotFoundError: there is none of that id.
        """
        now = self._now()

        def write(connection: sqlite3.Connection) -> ScheduleRecord:
            record = _found(connection, schedule)
            if record.queued_due is not None and not record.paused:
                _note_unqueued(connection, record, Reason.PAUSED, now)
            changed = replace(record, paused=True, queued_due=None)
            store.save(connection, changed)
            return changed

        return await self._database.write(write)

    async def resume(self, schedule: str) -> ScheduleRecord:
        """Fire it by its rule again, from now on; what came due while it was paused does not fire.

        Raises:
            ScheduleNotFoundError: there is none of that id.
            ScheduleRuleError: its rule cannot be evaluated; nothing is changed.
        """
        now = self._now()

        def write(connection: sqlite3.Connection) -> ScheduleRecord:
            record = _found(connection, schedule)
            if record.state in {"active", "suspended"} and not record.error:
                return record
            changed = _resumed(connection, record, now)
            store.save(connection, changed)
            return changed

        record = await self._database.write(write)
        self.poke()
        return record

    async def run_now(self, schedule: str) -> FiringRecord:
        """Fire it now, beside its rule, whatever still runs of it; errors as in `pause`."""
        record = await store.look_up(self._database, schedule)
        if record is None:
            raise ScheduleNotFoundError(schedule)
        return await self._dispatcher.fire_by_hand(record, self._now())

    async def runs(self, schedule: str, offset: int, limit: int) -> tuple[list[FiringRecord], int]:
        """A page of its history, the newest first, and how many rows are kept; errors as in `pause`."""
        if await store.look_up(self._database, schedule) is None:
            raise ScheduleNotFoundError(schedule)
        return await firing_store.page(self._database, schedule, offset, limit)

    # -- looking

    async def look(self) -> float:
        """Fire what is due; seconds until the next look, at most a minute.

        Safe to call at any time and any number of times.

        Raises:
            StorageBusyError, StorageFailedError: what is not fired yet is still due.
        """
        async with self._looking:
            await self._follow_clock()
            await self._dispatcher.fire_due(self._now())
            at, any_queued = await store.next_dispatch(self._database)
        wait = QUEUE_SECONDS if any_queued else LONGEST_SLEEP
        if at is not None:
            wait = min(wait, at - self._now())
        return max(SHORTEST_SLEEP, wait)

    async def _follow_clock(self) -> None:
        """Notice a step of the wall clock. Forward, instants were missed; back, intervals have to count anew."""
        step = self._watch.step()
        if step:
            _log.warning("clock_stepped", step_seconds=round(step, 3))
        self._stepped_back += min(step, 0.0)
        if not self._stepped_back:
            return
        now, back = self._now(), self._stepped_back

        def write(connection: sqlite3.Connection) -> None:
            for record in store.waiting(connection):
                settled = reanchored(record, now, back)
                if settled is not record:
                    store.save(connection, settled)

        await self._database.write(write)
        self._stepped_back = 0.0

    async def _look_for_ever(self, timer: AsyncIOScheduler) -> None:
        while True:
            self._poked.clear()
            try:
                wait = await self.look()
            except BusbarError as error:
                _log.warning("firings_not_written", error=error.message, retry_in=RETRY_SECONDS)
                wait = RETRY_SECONDS
            at = datetime.now(UTC) + timedelta(seconds=wait)
            timer.add_job(self._wake, DateTrigger(at), id="look", replace_existing=True)
            try:
                # The timer sleeps by the wall clock: were that set back, it would oversleep by as much.
                async with asyncio.timeout(LONGEST_SLEEP):
                    await self._poked.wait()
            except TimeoutError:
                continue

    async def _wake(self) -> None:
        """What the timer calls, on the loop."""
        self.poke()

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _found(connection: sqlite3.Connection, schedule: str) -> ScheduleRecord:
    record = store.find(connection, schedule)
    if record is None:
        raise ScheduleNotFoundError(schedule)
    return record


def _resumed(connection: sqlite3.Connection, record: ScheduleRecord, now: float) -> ScheduleRecord:
    """The schedule as it goes on from now; what came due while it was paused is noted."""
    schedule = record.schedule
    if not record.paused:  # its rule was broken: what it missed is for the misfire policy
        due = next_due(schedule, now if record.seen is None else record.seen, anchor=record.anchor)
        return replace(record, error="", next_due=due)
    seen = now
    if schedule.every is None:
        seen = max(now, record.seen or now)  # a clock that went back does not bring instants back
    due = next_due(schedule, seen, anchor=record.anchor)
    missed = None
    if record.next_due is not None:
        missed = span(schedule, record.next_due, now, anchor=record.anchor, newest=1)
    if missed is not None:
        skipped = Skipped(missed.first, missed.last, missed.count, Reason.PAUSED)
        firing_store.note_skipped(connection, record.id, skipped, now, now - missed.first)
    return replace(record, paused=False, error="", next_due=due, seen=seen)


def _note_unqueued(connection: sqlite3.Connection, record: ScheduleRecord, reason: Reason, now: float) -> None:
    """Note that the firing that waits is given up."""
    if record.queued_due is not None:
        skipped = Skipped(record.queued_due, record.queued_due, 1, reason)
        firing_store.note_skipped(connection, record.id, skipped, now, now - record.queued_due)
