"""The schedules' rows and their SQL, but for what moves them on as they fire: that is `log_writer.firings`.

Functions that take a connection run in the thread of the other writer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from host.scheduling.rules import describe_rule, dispatch_at
from host.storage.database import Database
from plugin_sdk.errors import PluginError
from plugin_sdk.schedule import Schedule

_SELECT: Final = "SELECT * FROM schedules"
_COLUMNS: Final = (
    "id, plugin, name, rule, anchor, next_due, active, paused, last_due, last_fired, "
    "seen, dispatch_at, queued_due, adopted_at, error"
)
_SAVE: Final = f"INSERT OR REPLACE INTO schedules ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DUE: Final = f"{_SELECT} WHERE dispatch_at <= ? AND active = 1 AND paused = 0 ORDER BY dispatch_at, id LIMIT ?"
_QUEUED: Final = (
    f"{_SELECT} WHERE queued_due IS NOT NULL AND active = 1 AND paused = 0 "
    "AND (dispatch_at IS NULL OR dispatch_at > ?) AND id > ? ORDER BY id LIMIT ?"
)
_NEXT: Final = (
    "SELECT (SELECT min(dispatch_at) FROM schedules WHERE dispatch_at IS NOT NULL), "
    "EXISTS (SELECT 1 FROM schedules WHERE queued_due IS NOT NULL AND active = 1 AND paused = 0)"
)
_RUNNING: Final = f"{_SELECT} WHERE dispatch_at IS NOT NULL ORDER BY id"
_COUNT: Final = "SELECT count(*) FROM schedules"
_PAGE: Final = f"{_SELECT} ORDER BY id LIMIT ? OFFSET ?"


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """One schedule. Instants are seconds since the epoch.

    `seen` is up to where instants were dealt with (None in rows of older hosts), `queued_due` an instant that waits for
    an earlier firing, `error` why the rule cannot be evaluated; it fires no more then.
    """

    id: str
    plugin: str
    name: str
    schedule: Schedule
    anchor: float
    next_due: float | None
    active: bool
    paused: bool
    last_due: float | None = None
    last_fired: float | None = None
    seen: float | None = None
    queued_due: float | None = None
    adopted_at: float | None = None
    error: str = ""

    @property
    def rule_text(self) -> str:
        """The rule as people read it."""
        return describe_rule(self.schedule)

    @property
    def state(self) -> str:
        """`active`, `paused` by a person, `suspended` with its plugin, or `broken`: its rule cannot be evaluated."""
        if self.paused:
            return "paused"
        if not self.active:
            return "suspended"
        return "broken" if self.error else "active"

    @property
    def dispatch_at(self) -> float | None:
        """When its next firing is to be dispatched; None while it does not fire by itself."""
        if self.state != "active" or self.next_due is None:
            return None
        return dispatch_at(self.id, self.next_due, self.schedule.jitter)


def record_of(row: sqlite3.Row) -> ScheduleRecord:
    """A row as a record; a rule that cannot be read any more is an error of the record, not of whoever reads it."""
    error = row["error"]
    try:
        schedule = msgspec.json.decode(row["rule"], type=Schedule)
    except (msgspec.MsgspecError, PluginError) as unreadable:
        schedule = Schedule(name="unreadable", at="1970-01-01T00:00:00Z")
        error = f"the stored rule cannot be read ({unreadable}): restart the plugin"
    return ScheduleRecord(
        id=row["id"],
        plugin=row["plugin"],
        name=row["name"],
        schedule=schedule,
        anchor=row["anchor"],
        next_due=row["next_due"],
        active=bool(row["active"]),
        paused=bool(row["paused"]),
        last_due=row["last_due"],
        last_fired=row["last_fired"],
        seen=row["seen"],
        queued_due=row["queued_due"],
        adopted_at=row["adopted_at"],
        error=error,
    )


def find(connection: sqlite3.Connection, schedule: str) -> ScheduleRecord | None:
    """One schedule, or None."""
    row = connection.execute(_SELECT + " WHERE id = ?", (schedule,)).fetchone()
    return None if row is None else record_of(row)


def of_plugin(connection: sqlite3.Connection, plugin: str) -> list[ScheduleRecord]:
    """The schedules of a plugin."""
    return [record_of(row) for row in connection.execute(_SELECT + " WHERE plugin = ?", (plugin,))]


def waiting(connection: sqlite3.Connection) -> list[ScheduleRecord]:
    """Every schedule that will fire by itself."""
    return [record_of(row) for row in connection.execute(_RUNNING)]


def save(connection: sqlite3.Connection, record: ScheduleRecord) -> None:
    """Write a schedule, new or changed."""
    row: tuple[Any, ...] = (
        record.id,
        record.plugin,
        record.name,
        msgspec.json.encode(record.schedule).decode(),
        record.anchor,
        record.next_due,
        int(record.active),
        int(record.paused),
        record.last_due,
        record.last_fired,
        record.seen,
        record.dispatch_at,
        record.queued_due,
        record.adopted_at,
        record.error,
    )
    connection.execute(_SAVE, row)


def delete(connection: sqlite3.Connection, schedules: Sequence[str]) -> None:
    """Remove schedules and their history."""
    for schedule in schedules:
        connection.execute("DELETE FROM schedules WHERE id = ?", (schedule,))
        connection.execute("DELETE FROM firings WHERE schedule = ?", (schedule,))


async def due(database: Database, now: float, limit: int) -> list[ScheduleRecord]:
    """Schedules that are to be dispatched, the longest due first."""
    return [record_of(row) for row in await database.read(_DUE, (now, limit))]


async def queued(database: Database, now: float, after: str, limit: int) -> list[ScheduleRecord]:
    """Schedules with a firing that waits, other than those of `due`; by id, behind `after`."""
    return [record_of(row) for row in await database.read(_QUEUED, (now, after, limit))]


async def next_dispatch(database: Database) -> tuple[float | None, bool]:
    """When the next schedule is to be dispatched, and whether any firing waits for an earlier one."""
    ((at, any_queued),) = await database.read(_NEXT)
    return at, bool(any_queued)


async def look_up(database: Database, schedule: str) -> ScheduleRecord | None:
    """One schedule as it stands, or None."""
    rows = await database.read(_SELECT + " WHERE id = ?", (schedule,))
    return record_of(rows[0]) if rows else None


async def page(database: Database, offset: int, limit: int) -> tuple[list[ScheduleRecord], int]:
    """A page of all schedules, by id, and how many there are."""
    counted = await database.read(_COUNT)
    rows = await database.read(_PAGE, (limit, offset))
    return [record_of(row) for row in rows], int(counted[0][0])
