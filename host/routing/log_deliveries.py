"""Rows of the attempt log and of the dead letters: how outcomes become them, and how they are read back."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from host.routing.event_log import DeadLetterRecord, DeliveryQuery, DeliveryRecord, LetterQuery, Outcome, Settlement
from host.routing.log_appending import chunk_size
from host.routing.subscriptions import home
from host.storage.database import Database

KEPT_DELIVERIES: Final = 100_000
"""Lines of the attempt log that are kept."""
MAX_TRACEBACK: Final = 16_384
"""Characters of a traceback that are kept, counted from its end, where the error stands."""
MAX_REASON: Final = 4_096
"""Characters of a reason beside a dead letter or a retry."""
MAX_LINE_REASON: Final = 500
"""Characters of a reason in the attempt log, of which the plugins of a host have `KEPT_DELIVERIES` together."""

_BURY: Final = (
    "INSERT INTO dead_letters (plugin, subscription, sequence, event_id, event_type, body, reason, "
    "traceback, attempts, at, history) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
LETTER_WEIGHT: Final = (
    "(length(body) + length(CAST(reason AS BLOB)) + length(CAST(traceback AS BLOB)) + length(CAST(history AS BLOB)))"
)
"""What a dead letter is charged, in SQL; `letter_weight` says the same of one that was read."""
_LETTER: Final = "SELECT * FROM dead_letters WHERE id = ?"
_DROP_LETTER: Final = "DELETE FROM dead_letters WHERE id = ?"
_TRIM: Final = "DELETE FROM deliveries WHERE number <= (SELECT max(number) FROM deliveries) - ?"
_LINE: Final = "subscription, sequence, event_id, attempt, outcome, started_at, duration, error"


@cache
def _insert(rows: int) -> str:
    values = ",".join(["(?,?,?,?,?,?,?,?,?)"] * rows)
    return f"INSERT INTO deliveries (plugin, {_LINE}) VALUES {values}"


def insert_deliveries(connection: sqlite3.Connection, outcomes: Sequence[Settlement]) -> None:
    """Add a line to the attempt log for each outcome, many to a statement."""
    at = 0
    while at < len(outcomes):
        size = chunk_size(len(outcomes) - at)
        flat: list[Any] = []
        for one in outcomes[at : at + size]:
            flat += (
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
        connection.execute(_insert(size), flat)
        at += size


def bury(
    connection: sqlite3.Connection, outcomes: Sequence[Settlement], histories: Sequence[str], now: float
) -> Counter[str]:
    """Keep a dead letter for each outcome, with its own copy of the event and the history of its attempts.

    One that a replay gave up on belongs to the subscription that was replayed. Answers what they weigh, by plugin.
    """
    weights: Counter[str] = Counter()
    for one, history in zip(outcomes, histories, strict=True):
        texts = (one.error[:MAX_REASON], one.traceback[-MAX_TRACEBACK:], history)
        weights[one.plugin] += len(one.stored.body) + sum(len(text.encode()) for text in texts)
    connection.executemany(
        _BURY,
        [
            (
                one.plugin,
                home(one.subscription),
                one.stored.sequence,
                one.stored.event.id,
                one.stored.event.type,
                one.stored.body,
                one.error[:MAX_REASON],
                one.traceback[-MAX_TRACEBACK:],
                one.attempt,
                now,
                history,
            )
            for one, history in zip(outcomes, histories, strict=True)
        ],
    )
    return weights


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


def trim(connection: sqlite3.Connection) -> None:
    """Drop all but the newest lines of the attempt log."""
    connection.execute(_TRIM, (KEPT_DELIVERIES,))


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
