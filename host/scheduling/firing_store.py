"""The history of schedules: a row for every firing and for every run of instants that did not fire, and why.

Functions that take a connection run in the writer's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from host.scheduling.misfires import Reason, Skipped
from host.scheduling.rules import written
from host.storage.database import Database

KEPT_FIRINGS: Final = 1000
"""Rows of history kept for each schedule; those of firings that may not be settled stay for as many more."""

_ADD: Final = (
    "INSERT INTO firings (schedule, due, fired_at, event_id, by_hand, outcome, reason, count, lateness, last_due, "
    "sequence, open) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_LATEST: Final = "SELECT number, outcome, reason FROM firings WHERE schedule = ? ORDER BY number DESC LIMIT 1"
_EXTEND: Final = "UPDATE firings SET count = count + ?, last_due = ?, fired_at = ? WHERE number = ?"
_TRIM: Final = (
    "DELETE FROM firings WHERE schedule = ?1 AND number <= "
    "(SELECT number FROM firings WHERE schedule = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2) "
    "AND (open = 0 OR number <= "
    "(SELECT number FROM firings WHERE schedule = ?1 ORDER BY number DESC LIMIT 1 OFFSET 2 * ?2))"
)
_PAGE: Final = "SELECT * FROM firings WHERE schedule = ? ORDER BY number DESC LIMIT ? OFFSET ?"
_COUNT: Final = "SELECT count(*) FROM firings WHERE schedule = ?"
_COUNT_OPEN: Final = "SELECT schedule, count(*) FROM firings WHERE open = 1 AND schedule IN ({}) GROUP BY schedule"
_OPEN: Final = "SELECT schedule, sequence FROM firings WHERE open = 1 AND schedule IN ({}) ORDER BY number"
_CLOSE: Final = "UPDATE firings SET open = 0 WHERE open = 1 AND schedule = ? AND sequence = ?"


@dataclass(frozen=True, slots=True)
class FiringRecord:
    """One row of history: a firing, or `count` instants from `due` to `last_due` that did not fire, and why.

    `due` and `last_due` are RFC 3339; `fired_at` is when it was decided, in seconds since the epoch; `lateness` is how
    many seconds that was behind the time of dispatch. What did not fire has no event.
    """

    due: str
    fired_at: float
    event_id: str | None
    by_hand: bool = False
    outcome: str = "fired"
    reason: str = Reason.ON_TIME
    count: int = 1
    lateness: float = 0.0
    last_due: str | None = None


def note_firing(connection: sqlite3.Connection, schedule: str, firing: FiringRecord, sequence: int) -> None:
    """Add a firing, whose event is number `sequence` of the log; the oldest rows beyond what is kept are dropped."""
    _add(connection, schedule, firing, sequence)


def note_skipped(connection: sqlite3.Connection, schedule: str, skipped: Skipped, now: float, lateness: float) -> None:
    """Add instants that did not fire; those that follow others of the same reason are one row with them."""
    latest = connection.execute(_LATEST, (schedule,)).fetchone()
    if latest is not None and (latest["outcome"], latest["reason"]) == ("skipped", skipped.reason):
        connection.execute(_EXTEND, (skipped.count, written(skipped.last), now, latest["number"]))
        return
    row = FiringRecord(
        due=written(skipped.first),
        fired_at=now,
        event_id=None,
        outcome="skipped",
        reason=skipped.reason,
        count=skipped.count,
        lateness=lateness,
        last_due=written(skipped.last),
    )
    _add(connection, schedule, row, None)


def close(connection: sqlite3.Connection, schedule: str, sequences: Collection[int]) -> None:
    """Note that these firings are settled."""
    connection.executemany(_CLOSE, [(schedule, sequence) for sequence in sequences])


async def count_open(database: Database, schedules: Sequence[str]) -> dict[str, int]:
    """How many firings of each schedule were not settled when last looked at."""
    rows = await database.read(_COUNT_OPEN.format(_places(schedules)), schedules)
    return {row[0]: row[1] for row in rows}


async def open_firings(database: Database, schedules: Sequence[str]) -> dict[str, list[int]]:
    """The firings (by sequence) of each schedule that were not settled when last looked at, the oldest first."""
    found: dict[str, list[int]] = {}
    for schedule, sequence in await database.read(_OPEN.format(_places(schedules)), schedules):
        found.setdefault(schedule, []).append(sequence)
    return found


async def page(database: Database, schedule: str, offset: int, limit: int) -> tuple[list[FiringRecord], int]:
    """A page of a schedule's history, the newest first, and how many rows are kept."""
    counted = await database.read(_COUNT, (schedule,))
    rows = await database.read(_PAGE, (schedule, limit, offset))
    return [_record(row) for row in rows], int(counted[0][0])


def _add(connection: sqlite3.Connection, schedule: str, row: FiringRecord, sequence: int | None) -> None:
    values: tuple[Any, ...] = (
        schedule,
        row.due,
        row.fired_at,
        row.event_id or "",
        int(row.by_hand),
        row.outcome,
        row.reason,
        row.count,
        row.lateness,
        row.last_due,
        sequence,
        int(sequence is not None),
    )
    connection.execute(_ADD, values)
    connection.execute(_TRIM, (schedule, KEPT_FIRINGS))


def _record(row: sqlite3.Row) -> FiringRecord:
    return FiringRecord(
        due=row["due"],
        fired_at=row["fired_at"],
        event_id=row["event_id"] or None,
        by_hand=bool(row["by_hand"]),
        outcome=row["outcome"],
        reason=row["reason"],
        count=row["count"],
        lateness=row["lateness"],
        last_due=row["last_due"],
    )


def _places(values: Sequence[str]) -> str:
    return ",".join("?" * len(values))
