"""The attempt log and the dead letters: how outcomes become their rows, and how these are read back and removed."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from host.routing.event_log import DeadLetterRecord, DeliveryQuery, DeliveryRecord, LetterQuery, Outcome, Settlement
from host.routing.subscriptions import home
from host.storage.database import Database
from host.storage.log_writer.frames import Letter

KEPT_DELIVERIES: Final = 100_000
"""Lines of the attempt log that are kept."""
TRIM_CHUNK: Final = 2_000
"""Lines that one transaction drops; some 10 ms, so that appends are not kept waiting."""
MAX_TRACEBACK: Final = 16_384
"""Characters of a traceback that are kept, counted from its end, where the error stands."""
MAX_REASON: Final = 4_096
"""Characters of a reason beside a dead letter or a retry."""
MAX_LINE_REASON: Final = 500
"""Characters of a reason in the attempt log, of which the plugins of a host have `KEPT_DELIVERIES` together."""
MAX_REMEMBERED_REASON: Final = 200
"""Characters of a reason in a history: a delivery that waits has up to a hundred of them, and a subscription up to ten
thousand deliveries that wait."""

LETTER_WEIGHT: Final = (
    "(length(body) + length(CAST(reason AS BLOB)) + length(CAST(traceback AS BLOB)) + length(CAST(history AS BLOB)))"
)
"""What a dead letter is charged, in SQL; `letter_weight` says the same of one that was read."""
_LETTER: Final = "SELECT * FROM dead_letters WHERE id = ?"
_DROP_LETTER: Final = "DELETE FROM dead_letters WHERE id = ?"
_TRIM: Final = (
    "DELETE FROM deliveries WHERE number <= (SELECT max(number) FROM deliveries) - ?1 "
    "AND number < (SELECT min(number) FROM deliveries) + ?2"
)
_LINE: Final = "subscription, sequence, event_id, attempt, outcome, started_at, duration, error"


def line_of(one: Settlement) -> tuple[str | int | float, ...]:
    """An outcome as a line of the attempt log, as it stands in a frame."""
    return (
        one.plugin,
        one.subscription,
        one.stored.sequence,
        one.stored.event.id,
        one.attempt,
        one.outcome.value,
        one.started_at,
        one.duration,
        one.error[:MAX_LINE_REASON],
    )


def letter_of(one: Settlement, now: float) -> Letter:
    """A delivery that was given up on as its dead letter, which has its own copy of the event.

    One that a replay gave up on belongs to the subscription that was replayed.
    """
    return Letter(
        plugin=one.plugin,
        subscription=one.subscription,
        home=home(one.subscription),
        sequence=one.stored.sequence,
        event_id=one.stored.event.id,
        event_type=one.stored.event.type,
        body=one.stored.body,
        reason=one.error[:MAX_REASON],
        traceback=one.traceback[-MAX_TRACEBACK:],
        attempts=one.attempt,
        at=now,
        entry=entry_of(one),
        noted=one.noted,
    )


def entry_of(one: Settlement) -> str:
    """An attempt as it is remembered beside a retry and in a dead letter, in JSON."""
    found = {
        "attempt": one.attempt,
        "at": one.started_at,
        "duration": one.duration,
        "error": one.error[:MAX_REMEMBERED_REASON],
    }
    return json.dumps(found)


def letter_weight(letter: DeadLetterRecord) -> int:
    """What a dead letter is charged."""
    texts = (letter.reason, letter.traceback, letter.history)
    return len(letter.body) + sum(len(text.encode()) for text in texts)


def take_letter(connection: sqlite3.Connection, letter: int) -> DeadLetterRecord | None:
    """Remove a dead letter and answer it; None where there is none."""
    row = connection.execute(_LETTER, (letter,)).fetchone()
    if row is None:
        return None
    connection.execute(_DROP_LETTER, (letter,))
    return DeadLetterRecord(**dict(row))


def trim(connection: sqlite3.Connection) -> int:
    """Drop some of the oldest lines of the attempt log beyond the newest that are kept; how many."""
    return connection.execute(_TRIM, (KEPT_DELIVERIES, TRIM_CHUNK)).rowcount


def forget(connection: sqlite3.Connection, *, table: str, plugin: str) -> int:
    """Remove some of the rows that a table has of a plugin; how many."""
    return connection.execute(
        f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE plugin = ? LIMIT ?)", (plugin, TRIM_CHUNK)
    ).rowcount


async def letters(
    database: Database, query: LetterQuery, offset: int, limit: int
) -> tuple[list[DeadLetterRecord], int]:
    """A page of dead letters, the newest first, and how many fit."""
    where, values = _where(
        ("plugin = ?", query.plugin),
        ("subscription = ?", query.subscription),
        ("event_type GLOB ?", None if query.type is None else glob(query.type)),
        ("at >= ?", query.since),
        ("at < ?", query.until),
        ("id = ?", query.letter),
        ("id < ?", query.below),
    )
    counted = await database.read(f"SELECT count(*) FROM dead_letters {where}", values)
    rows = await database.read(
        f"SELECT * FROM dead_letters {where} ORDER BY id DESC LIMIT ? OFFSET ?", (*values, limit, offset)
    )
    return [DeadLetterRecord(**dict(row)) for row in rows], int(counted[0][0])


async def lines(
    database: Database, plugin: str, query: DeliveryQuery, offset: int, limit: int
) -> tuple[list[DeliveryRecord], int]:
    """A page of a plugin's attempt log, the newest first, and how many lines fit."""
    where, values = _where(
        ("plugin = ?", plugin),
        ("outcome = ?", None if query.outcome is None else query.outcome.value),
        ("event_id = ?", query.event_id),
        ("subscription = ?", query.subscription),
    )
    counted = await database.read(f"SELECT count(*) FROM deliveries {where}", values)
    rows = await database.read(
        f"SELECT {_LINE} FROM deliveries {where} ORDER BY number DESC LIMIT ? OFFSET ?",
        (*values, limit, offset),
    )
    found = [DeliveryRecord(**{**dict(row), "outcome": Outcome(row["outcome"])}) for row in rows]
    return found, int(counted[0][0])


def glob(pattern: str) -> str:
    """A type pattern for GLOB: only `*` is a wildcard of ours, the others of SQLite's stand for themselves."""
    return pattern.replace("[", "[[]").replace("?", "[?]")


def _where(*conditions: tuple[str, Any]) -> tuple[str, list[Any]]:
    """The conditions that have a value as a WHERE clause, and the values."""
    given = [(clause, value) for clause, value in conditions if value is not None]
    clause = " AND ".join(clause for clause, _ in given)
    return (f"WHERE {clause}" if clause else ""), [value for _, value in given]
