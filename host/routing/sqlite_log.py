"""`SQLiteLog`: the embedded event log. Its rows and their SQL are all here and in `log_appending`."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

from host.routing.event_log import (
    Appended,
    DeadLetterRecord,
    DeliveryRecord,
    EventQuery,
    LogStats,
    Outcome,
    PendingRetry,
    Pruned,
    Settlement,
    StoredEvent,
)
from host.routing.log_appending import CHUNKS, Appender
from host.storage.database import Database
from plugin_sdk.clock import Clock
from plugin_sdk.events import Event

KEPT_DELIVERIES: Final = 100_000
"""Lines of the attempt log that are kept."""
PRUNE_CHUNK: Final = 5_000
"""Rows that one transaction of pruning removes, so that appends are not kept waiting."""
MAX_TRACEBACK: Final = 16_384
MAX_REASON: Final = 4_096

_HEAD: Final = "SELECT max(sequence, (SELECT coalesce(max(sequence), 0) FROM events)) FROM log_head"
_READ: Final = "SELECT sequence, appended_at, body FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?"
_FIND: Final = "SELECT sequence, appended_at, body FROM events WHERE id = ? ORDER BY sequence LIMIT 100"
_CURSOR: Final = "SELECT position FROM cursors WHERE subscription = ?"
_NEW_CURSOR: Final = "INSERT OR IGNORE INTO cursors (subscription, position) VALUES (?, ?)"
_MOVE: Final = "UPDATE cursors SET position = max(position, ?) WHERE subscription = ?"
_AHEAD: Final = "SELECT sequence FROM settled_ahead WHERE subscription = ?"
_ADD_AHEAD: Final = "INSERT OR IGNORE INTO settled_ahead (subscription, sequence) VALUES (?, ?)"
_LEAVE_AHEAD: Final = "DELETE FROM settled_ahead WHERE subscription = ? AND sequence <= ?"
_RETRY: Final = (
    "INSERT INTO retries (subscription, sequence, attempt, due_at, error) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (subscription, sequence) DO UPDATE SET "
    "attempt = excluded.attempt, due_at = excluded.due_at, error = excluded.error"
)
_SETTLED: Final = "DELETE FROM retries WHERE subscription = ? AND sequence = ?"
_DUE: Final = (
    "SELECT r.subscription, r.sequence, r.attempt, r.due_at, r.error, coalesce(r.body, e.body) AS body, "
    "coalesce(e.appended_at, 0) AS appended_at FROM retries r LEFT JOIN events e USING (sequence) "
    "WHERE r.subscription = ? AND r.due_at <= ? ORDER BY r.due_at LIMIT ?"
)
_NEXT_DUE: Final = "SELECT min(due_at) FROM retries WHERE subscription = ? AND due_at > ?"
_BURY: Final = (
    "INSERT INTO dead_letters (plugin, subscription, sequence, event_id, event_type, body, reason, traceback, "
    "attempts, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_LETTER: Final = "SELECT * FROM dead_letters WHERE id = ?"
_DROP_LETTER: Final = "DELETE FROM dead_letters WHERE id = ?"
_REVIVE: Final = (
    "INSERT INTO retries (subscription, sequence, attempt, due_at, error, body) VALUES (?, ?, 0, ?, ?, ?) "
    "ON CONFLICT (subscription, sequence) DO UPDATE SET attempt = 0, due_at = excluded.due_at, body = excluded.body"
)
_FLOOR: Final = (
    "SELECT subscription, min(position) AS position FROM ("
    "SELECT subscription, position FROM cursors UNION ALL SELECT subscription, sequence - 1 FROM retries "
    "WHERE body IS NULL) GROUP BY subscription ORDER BY position"
)
_PRUNABLE: Final = "SELECT sequence FROM events WHERE sequence <= ? AND appended_at < ? ORDER BY sequence LIMIT ?"
_OLDEST: Final = "SELECT sequence FROM events WHERE sequence <= ? ORDER BY sequence LIMIT ?"
_REMOVE: Final = "DELETE FROM events WHERE sequence <= ? AND sequence >= ?"
_KEEP_HEAD: Final = "UPDATE log_head SET sequence = max(sequence, (SELECT coalesce(max(sequence), 0) FROM events))"
_TRIM: Final = "DELETE FROM deliveries WHERE number <= (SELECT max(number) FROM deliveries) - ?"


class SQLiteLog:
    """The event log in the host's database. Make it with `open`."""

    def __init__(self, database: Database, appender: Appender, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._appender = appender
        database.writer.hook(appender)
        self._appending = database.writer.channel(appender.apply)

    @classmethod
    async def open(cls, database: Database, clock: Clock) -> SQLiteLog:
        """Take up the log where it ends."""
        rows = await database.read(_HEAD)
        return cls(database, Appender(int(rows[0][0]), clock), clock)

    # -- events

    def head(self) -> int:
        """The highest sequence that is durable."""
        return self._appender.head

    def listen(self, committed: Callable[[Sequence[StoredEvent]], None]) -> None:
        """Call `committed` on the loop with the new events of each commit, in order."""
        self._appender.listen(committed)

    def append(self, event: Event, body: bytes) -> asyncio.Future[Appended]:
        """Append an event; the future is done once it is durable. Errors as in `EventLog.append`."""
        return self._appending.submit((event, body))

    def append_within(self, connection: sqlite3.Connection, event: Event) -> Appended:
        """Append an event as part of an operation of the caller's own, in the writer's thread.

        It becomes visible with that operation's commit and never without it.

        Raises:
            EventConflictError: as `append`.
        """
        (answer,) = self._appender.apply(connection, [(event, event.to_json())])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def read(self, after: int, limit: int) -> list[StoredEvent]:
        """At most `limit` events above `after`, in order."""
        return [_event(row) for row in await self._database.read(_READ, (after, limit))]

    async def find(self, event_id: str) -> list[StoredEvent]:
        """The events with this id."""
        return [_event(row) for row in await self._database.read(_FIND, (event_id,))]

    async def query(self, query: EventQuery, offset: int, limit: int) -> tuple[list[StoredEvent], int]:
        """A page of matching events, the newest first, and how many match in all."""
        clauses: list[str] = []
        values: list[Any] = []
        if query.type is not None:
            if "*" in query.type:
                clauses.append("type GLOB ?")
                values.append(query.type.replace("[", "[[]").replace("?", "[?]"))
            else:
                clauses.append("type = ?")
                values.append(query.type)
        for column, value in (("source", query.source), ("subject", query.subject)):
            if value is not None:
                clauses.append(f"{column} = ?")
                values.append(value)
        for comparison, instant in ((">=", query.since), ("<", query.until)):
            if instant is not None:
                clauses.append(f"appended_at {comparison} ?")
                values.append(int(instant * 1_000_000))
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        counted = await self._database.read(f"SELECT count(*) FROM events {where}", values)
        rows = await self._database.read(
            f"SELECT sequence, appended_at, body FROM events {where} ORDER BY sequence DESC LIMIT ? OFFSET ?",
            (*values, limit, offset),
        )
        return [_event(row) for row in rows], int(counted[0][0])

    # -- cursors and outcomes

    async def cursor(self, subscription: str, *, start: int) -> int:
        """Where a subscription stands; a new one is made to stand at `start`."""

        def take(connection: sqlite3.Connection) -> int:
            connection.execute(_NEW_CURSOR, (subscription, start))
            return int(connection.execute(_CURSOR, (subscription,)).fetchone()[0])

        return await self._database.write(take)

    async def ahead(self, subscription: str) -> set[int]:
        """What is settled above the cursor."""
        return {row[0] for row in await self._database.read(_AHEAD, (subscription,))}

    async def settle(
        self, outcomes: Sequence[Settlement], cursors: Mapping[str, int], ahead: Mapping[str, Sequence[int]]
    ) -> None:
        """Write outcomes, cursors, and what was settled above them, in one transaction."""
        retried = [
            (one.subscription, one.stored.sequence, one.attempt, one.retry_at, one.error[:MAX_REASON])
            for one in outcomes
            if one.outcome is Outcome.RETRIED
        ]
        now = self._clock.now().timestamp()
        dead = [_letter_row(one, now) for one in outcomes if one.outcome is Outcome.DEAD_LETTERED]
        done = [
            (one.subscription, one.stored.sequence)
            for one in outcomes
            if one.noted and one.outcome is not Outcome.RETRIED
        ]

        def write(connection: sqlite3.Connection) -> None:
            _insert_deliveries(connection, outcomes)
            connection.executemany(_BURY, dead)
            connection.executemany(_SETTLED, done)
            connection.executemany(_RETRY, retried)
            connection.executemany(_ADD_AHEAD, _pairs(ahead))
            for subscription, position in cursors.items():
                connection.execute(_MOVE, (position, subscription))
                connection.execute(_LEAVE_AHEAD, (subscription, position))

        await self._database.write(write)

    # -- retries

    async def begin(self, attempts: Sequence[PendingRetry]) -> None:
        """Write down attempts that are about to be made."""
        rows = [(one.subscription, one.sequence, one.attempt, one.due_at, one.error) for one in attempts]
        await self._database.write(lambda connection: _many(connection, _RETRY, rows))

    async def due(self, subscription: str, now: float, limit: int) -> list[tuple[PendingRetry, StoredEvent]]:
        """Retries due at `now`, the longest due first."""
        rows = await self._database.read(_DUE, (subscription, now, limit))
        return [
            (
                PendingRetry(row["subscription"], row["sequence"], row["attempt"], row["due_at"], row["error"]),
                _event(row),
            )
            for row in rows
        ]

    async def next_due(self, subscription: str, *, after: float) -> float | None:
        """When the next retry after the instant `after` comes due."""
        rows = await self._database.read(_NEXT_DUE, (subscription, after))
        return None if rows[0][0] is None else float(rows[0][0])

    # -- dead letters and the attempt log

    async def dead_letters(self, plugin: str | None, offset: int, limit: int) -> tuple[list[DeadLetterRecord], int]:
        """A page of dead letters, the newest first, and how many there are."""
        where, values = ("WHERE plugin = ?", (plugin,)) if plugin else ("", ())
        counted = await self._database.read(f"SELECT count(*) FROM dead_letters {where}", values)
        rows = await self._database.read(
            f"SELECT * FROM dead_letters {where} ORDER BY id DESC LIMIT ? OFFSET ?", (*values, limit, offset)
        )
        return [DeadLetterRecord(**dict(row)) for row in rows], int(counted[0][0])

    async def revive(self, letter: int) -> DeadLetterRecord | None:
        """Move a dead letter back to be delivered, with no attempt counted; None where there is none."""
        now = self._clock.now().timestamp()

        def move(connection: sqlite3.Connection) -> DeadLetterRecord | None:
            found = _take_letter(connection, letter)
            if found is not None:
                connection.execute(_REVIVE, (found.subscription, found.sequence, now, found.reason, found.body))
            return found

        return await self._database.write(move)

    async def discard(self, letter: int) -> DeadLetterRecord | None:
        """Remove a dead letter for good; None where there is none."""
        return await self._database.write(lambda connection: _take_letter(connection, letter))

    async def deliveries(
        self, plugin: str, outcome: Outcome | None, offset: int, limit: int
    ) -> tuple[list[DeliveryRecord], int]:
        """A page of the attempt log of a plugin, the newest first, and how many lines it has."""
        where, values = "WHERE plugin = ?", [plugin]
        if outcome is not None:
            where, values = where + " AND outcome = ?", [plugin, outcome.value]
        counted = await self._database.read(f"SELECT count(*) FROM deliveries {where}", values)
        rows = await self._database.read(
            "SELECT subscription, sequence, event_id, attempt, outcome, started_at, duration, error "
            f"FROM deliveries {where} ORDER BY number DESC LIMIT ? OFFSET ?",
            (*values, limit, offset),
        )
        found = [DeliveryRecord(**{**dict(row), "outcome": Outcome(row["outcome"])}) for row in rows]
        return found, int(counted[0][0])

    # -- housekeeping

    async def forget(self, plugin: str) -> None:
        """Drop a plugin's cursors, retries, dead letters and attempt log."""
        prefix = plugin + "/"

        def drop(connection: sqlite3.Connection) -> None:
            for table in ("cursors", "settled_ahead", "retries"):
                connection.execute(f"DELETE FROM {table} WHERE substr(subscription, 1, ?) = ?", (len(prefix), prefix))
            for table in ("dead_letters", "deliveries"):
                connection.execute(f"DELETE FROM {table} WHERE plugin = ?", (plugin,))

        await self._database.write(drop)

    async def prune(self, older_than: float, max_bytes: int) -> Pruned:
        """Remove events that are too old or beyond the budget, and that no subscription still needs."""
        floors = await self._database.read(_FLOOR)
        floor = int(floors[0]["position"]) if floors else self.head()
        removed = 0
        while (found := await self._prune_chunk(_PRUNABLE, (floor, int(older_than * 1_000_000)))) > 0:
            removed += found
        while (await self._bytes()) > max_bytes:
            found = await self._prune_chunk(_OLDEST, (floor,))
            if not found:
                break
            removed += found
        await self._database.write(lambda connection: _many(connection, _TRIM, [(KEPT_DELIVERIES,)]))
        oldest = await self._database.read("SELECT appended_at FROM events ORDER BY sequence LIMIT 1")
        late = bool(oldest) and oldest[0][0] < int(older_than * 1_000_000)
        held = late or (await self._bytes()) > max_bytes
        holders = tuple(row["subscription"] for row in floors if row["position"] == floor) if held else ()
        return Pruned(removed, holders)

    async def stats(self) -> LogStats:
        """How large the log is."""
        row = (
            await self._database.read(
                "SELECT (SELECT count(*) FROM events) AS events, "
                "(SELECT appended_at FROM events ORDER BY sequence LIMIT 1) AS oldest, "
                "(SELECT count(*) FROM retries) AS retries, (SELECT count(*) FROM dead_letters) AS letters"
            )
        )[0]
        oldest = None if row["oldest"] is None else row["oldest"] / 1_000_000
        return LogStats(row["events"], await self._bytes(), self.head(), oldest, row["retries"], row["letters"])

    async def _bytes(self) -> int:
        rows = await self._database.read(
            "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, "
            "pragma_page_size"
        )
        return int(rows[0][0])

    async def _prune_chunk(self, select: str, values: tuple[int, ...]) -> int:
        rows = await self._database.read(select, (*values, PRUNE_CHUNK))
        if not rows:
            return 0
        first, last = rows[0][0], rows[-1][0]

        def remove(connection: sqlite3.Connection) -> int:
            connection.execute(_KEEP_HEAD)
            return connection.execute(_REMOVE, (last, first)).rowcount

        return await self._database.write(remove)


def _event(row: sqlite3.Row) -> StoredEvent:
    body = bytes(row["body"])
    return StoredEvent(row["sequence"], Event.trusted(body), body, row["appended_at"] / 1_000_000)


def _insert_deliveries(connection: sqlite3.Connection, outcomes: Sequence[Settlement]) -> None:
    """Add lines to the attempt log, many to a statement (see `log_appending.CHUNKS`)."""
    at = 0
    while at < len(outcomes):
        size = next(chunk for chunk in CHUNKS if chunk <= len(outcomes) - at)
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
                one.error[:MAX_REASON],
            )
        connection.execute(_deliveries(size), flat)
        at += size


@cache
def _deliveries(rows: int) -> str:
    values = ",".join(["(?,?,?,?,?,?,?,?,?)"] * rows)
    return (
        "INSERT INTO deliveries (plugin, subscription, sequence, event_id, attempt, outcome, started_at, "
        f"duration, error) VALUES {values}"
    )


def _letter_row(one: Settlement, now: float) -> tuple[Any, ...]:
    return (
        one.plugin,
        one.subscription,
        one.stored.sequence,
        one.stored.event.id,
        one.stored.event.type,
        one.stored.body,
        one.error[:MAX_REASON],
        one.traceback[-MAX_TRACEBACK:],
        one.attempt,
        now,
    )


def _take_letter(connection: sqlite3.Connection, letter: int) -> DeadLetterRecord | None:
    row = connection.execute(_LETTER, (letter,)).fetchone()
    if row is None:
        return None
    connection.execute(_DROP_LETTER, (letter,))
    return DeadLetterRecord(**dict(row))


def _pairs(ahead: Mapping[str, Sequence[int]]) -> Iterable[tuple[str, int]]:
    return ((subscription, sequence) for subscription, found in ahead.items() for sequence in found)


def _many(connection: sqlite3.Connection, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
    connection.executemany(sql, rows)
