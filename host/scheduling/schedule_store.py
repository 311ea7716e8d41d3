"""The schedules' rows and their SQL. Functions that take a connection run in the writer's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from host.scheduling.rules import describe_rule
from plugin_sdk.description import Schedule

KEPT_FIRINGS: Final = 1000
"""Firings kept for each schedule."""

SELECT: Final = "SELECT * FROM schedules"
_SAVE: Final = (
    "INSERT OR REPLACE INTO schedules (id, plugin, name, rule, anchor, next_due, active, paused, last_due, last_fired) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_FIRED: Final = "INSERT INTO firings (schedule, due, fired_at, event_id, by_hand) VALUES (?, ?, ?, ?, ?)"
_TRIM: Final = (
    "DELETE FROM firings WHERE schedule = ? AND number <= "
    "(SELECT number FROM firings WHERE schedule = ? ORDER BY number DESC LIMIT 1 OFFSET ?)"
)
FIRINGS: Final = (
    "SELECT due, fired_at, event_id, by_hand FROM firings WHERE schedule = ? ORDER BY number DESC LIMIT ? OFFSET ?"
)
COUNT_FIRINGS: Final = "SELECT count(*) FROM firings WHERE schedule = ?"


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """One schedule. Instants are seconds since the epoch."""

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

    @property
    def rule_text(self) -> str:
        """The rule as people read it."""
        return describe_rule(self.schedule)

    @property
    def waiting(self) -> bool:
        """Whether it will fire by itself."""
        return self.active and not self.paused and self.next_due is not None


@dataclass(frozen=True, slots=True)
class FiringRecord:
    """One firing; `due` is RFC 3339."""

    due: str
    fired_at: float
    event_id: str
    by_hand: bool


def record_of(row: sqlite3.Row) -> ScheduleRecord:
    """A row as a record."""
    return ScheduleRecord(
        id=row["id"],
        plugin=row["plugin"],
        name=row["name"],
        schedule=msgspec.json.decode(row["rule"], type=Schedule),
        anchor=row["anchor"],
        next_due=row["next_due"],
        active=bool(row["active"]),
        paused=bool(row["paused"]),
        last_due=row["last_due"],
        last_fired=row["last_fired"],
    )


def find(connection: sqlite3.Connection, schedule: str) -> ScheduleRecord | None:
    """One schedule, or None."""
    row = connection.execute(SELECT + " WHERE id = ?", (schedule,)).fetchone()
    return None if row is None else record_of(row)


def of_plugin(connection: sqlite3.Connection, plugin: str) -> list[ScheduleRecord]:
    """The schedules of a plugin."""
    return [record_of(row) for row in connection.execute(SELECT + " WHERE plugin = ?", (plugin,))]


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
    )
    connection.execute(_SAVE, row)


def delete(connection: sqlite3.Connection, schedules: Sequence[str]) -> None:
    """Remove schedules and their history."""
    for schedule in schedules:
        connection.execute("DELETE FROM schedules WHERE id = ?", (schedule,))
        connection.execute("DELETE FROM firings WHERE schedule = ?", (schedule,))


def note_firing(connection: sqlite3.Connection, schedule: str, firing: FiringRecord) -> None:
    """Add a firing to the history, and drop the oldest beyond what is kept."""
    connection.execute(_FIRED, (schedule, firing.due, firing.fired_at, firing.event_id, int(firing.by_hand)))
    connection.execute(_TRIM, (schedule, schedule, KEPT_FIRINGS))
