"""The history of schedules: a row for every firing and for every run of instants that did not fire, and why.

Firings are noted by the log's writer, with their events. Functions that take a connection run in the thread of the
other writer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from host.scheduling.misfires import Reason, Skipped
from host.scheduling.rules import written
from host.storage.database import Database
from host.storage.log_writer import firings
from host.storage.log_writer.firings import KEPT_FIRINGS, Skip

__all__ = ["KEPT_FIRINGS", "FiringRecord", "count_open", "note_skipped", "open_firings", "page", "skip_of"]

_PAGE: Final = "SELECT * FROM firings WHERE schedule = ? ORDER BY number DESC LIMIT ? OFFSET ?"
_COUNT: Final = "SELECT count(*) FROM firings WHERE schedule = ?"
_COUNT_OPEN: Final = "SELECT schedule, count(*) FROM firings WHERE open = 1 AND schedule IN ({}) GROUP BY schedule"
_OPEN: Final = "SELECT schedule, sequence FROM firings WHERE open = 1 AND schedule IN ({}) ORDER BY number"


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


def note_skipped(connection: sqlite3.Connection, schedule: str, skipped: Skipped, now: float, lateness: float) -> None:
    """Add instants that did not fire; those that follow others of the same reason are one row with them."""
    firings.note_skipped(connection, schedule, skip_of(skipped, lateness), now)


def skip_of(skipped: Skipped, lateness: float) -> Skip:
    """Instants that did not fire, as the log's writer notes them."""
    return Skip(written(skipped.first), written(skipped.last), skipped.count, skipped.reason, lateness)


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
