"""`SQLiteLog`: the embedded event log, and the SQL of its cursors and retries.

Appending is in `log_appending`, outcomes' rows in `log_deliveries`, pruning in `log_retention`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from host.routing import log_deliveries, log_retention
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
from host.routing.log_appending import Appender
from host.storage.database import Database
from plugin_sdk.clock import Clock
from plugin_sdk.events import Event

MAX_READ_BYTES: Final = 8 * 1024 * 1024
"""Bytes of events that one `read` answers; a single larger event comes alone."""
MAX_COUNTED: Final = 100_000
"""Matches that a query counts; more are said to be as many."""

_HEAD: Final = "SELECT max(sequence, (SELECT coalesce(max(sequence), 0) FROM events)) FROM log_head"
# The sizes are added up before a body is read, so that a reader far behind never holds a batch of large ones.
_READ: Final = (
    "SELECT sequence, appended_at, body FROM events WHERE sequence IN (SELECT sequence FROM ("
    "SELECT sequence, sum(size) OVER (ORDER BY sequence ROWS UNBOUNDED PRECEDING) - size AS before FROM ("
    "SELECT sequence, length(body) AS size FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?)) "
    f"WHERE before < {MAX_READ_BYTES}) ORDER BY sequence"
)
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
    "WHERE r.subscription = ? AND r.due_at <= ? AND coalesce(r.body, e.body) IS NOT NULL "
    "ORDER BY r.due_at LIMIT ?"
)
_NEXT_DUE: Final = "SELECT min(due_at) FROM retries WHERE subscription = ? AND due_at > ?"
_REVIVE: Final = (
    "INSERT INTO retries (subscription, sequence, attempt, due_at, error, body) VALUES (?, ?, 0, ?, ?, ?) "
    "ON CONFLICT (subscription, sequence) DO UPDATE SET "
    "attempt = 0, due_at = excluded.due_at, body = excluded.body"
)
_OF_PLUGIN: Final = "SELECT subscription FROM cursors WHERE substr(subscription, 1, ?) = ?"
_PER_SUBSCRIPTION: Final = ("cursors", "settled_ahead", "retries")
_STATS: Final = (
    "SELECT (SELECT coalesce(max(sequence) + 1, 0) FROM events) AS above, "
    "(SELECT coalesce(min(sequence), 0) FROM events) AS first, "
    "(SELECT appended_at FROM events ORDER BY sequence LIMIT 1) AS oldest, "
    "(SELECT count(*) FROM retries) AS retries, (SELECT count(*) FROM dead_letters) AS letters"
)


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
        """Call `committed` as `EventLog.listen` says."""
        self._appender.listen(committed)

    def append(self, event: Event, body: bytes) -> asyncio.Future[Appended]:
        """Append an event; the future is done once it is durable. Errors as in `EventLog.append`."""
        return self._appending.submit((event, body), weight=len(body))

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
        """The events above `after`, in order: at most `limit`, and some 8 MiB."""
        return [_event(row) for row in await self._database.read(_READ, (after, limit))]

    async def find(self, event_id: str) -> list[StoredEvent]:
        """The events with this id."""
        return [_event(row) for row in await self._database.read(_FIND, (event_id,))]

    async def query(self, query: EventQuery, offset: int, limit: int) -> tuple[list[StoredEvent], int]:
        """A page of matching events, the newest first, and how many match, counted up to `MAX_COUNTED`."""
        where, values = _conditions(query)
        counted = await self._database.read(
            f"SELECT count(*) FROM (SELECT 1 FROM events {where} LIMIT {MAX_COUNTED})", values
        )
        # Places first, bodies after: SQLite sorts what it must without the bodies.
        rows = await self._database.read(
            "SELECT sequence, appended_at, body FROM events WHERE sequence IN ("
            f"SELECT sequence FROM events {where} ORDER BY {_order(query)} LIMIT ? OFFSET ?) "
            "ORDER BY sequence DESC",
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
            (one.subscription, one.stored.sequence, one.attempt, one.retry_at, one.error[: log_deliveries.MAX_REASON])
            for one in outcomes
            if one.outcome is Outcome.RETRIED
        ]
        now = self._clock.now().timestamp()
        dead = [one for one in outcomes if one.outcome is Outcome.DEAD_LETTERED]
        done = [
            (one.subscription, one.stored.sequence)
            for one in outcomes
            if one.noted and one.outcome is not Outcome.RETRIED
        ]

        def write(connection: sqlite3.Connection) -> None:
            log_deliveries.insert_deliveries(connection, outcomes)
            log_deliveries.bury(connection, dead, now)
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
                PendingRetry(*row[:5]),
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
        return await log_deliveries.letters(self._database, plugin, offset, limit)

    async def revive(self, letter: int) -> DeadLetterRecord | None:
        """Move a dead letter back to be delivered, with no attempt counted; None where there is none."""
        now = self._clock.now().timestamp()

        def move(connection: sqlite3.Connection) -> DeadLetterRecord | None:
            found = log_deliveries.take_letter(connection, letter)
            if found is not None:
                connection.execute(_REVIVE, (found.subscription, found.sequence, now, found.reason, found.body))
            return found

        return await self._database.write(move)

    async def discard(self, letter: int) -> DeadLetterRecord | None:
        """Remove a dead letter for good; None where there is none."""
        return await self._database.write(lambda connection: log_deliveries.take_letter(connection, letter))

    async def deliveries(
        self, plugin: str, outcome: Outcome | None, offset: int, limit: int
    ) -> tuple[list[DeliveryRecord], int]:
        """A page of the attempt log of a plugin, the newest first, and how many lines it has."""
        return await log_deliveries.lines(self._database, plugin, outcome, offset, limit)

    # -- housekeeping

    async def forget(self, plugin: str) -> None:
        """Drop a plugin's cursors, retries, dead letters and attempt log."""
        prefix = plugin + "/"

        def drop(connection: sqlite3.Connection) -> None:
            for table in _PER_SUBSCRIPTION:
                connection.execute(f"DELETE FROM {table} WHERE substr(subscription, 1, ?) = ?", (len(prefix), prefix))
            for table in ("dead_letters", "deliveries"):
                connection.execute(f"DELETE FROM {table} WHERE plugin = ?", (plugin,))

        await self._database.write(drop)

    async def retire(self, plugin: str, kept: Collection[str]) -> None:
        """Drop the cursors and retries of a plugin's subscriptions other than `kept` (ids)."""
        prefix = plugin + "/"

        def drop(connection: sqlite3.Connection) -> None:
            found = connection.execute(_OF_PLUGIN, (len(prefix), prefix)).fetchall()
            for (subscription,) in found:
                if subscription not in kept:
                    for table in _PER_SUBSCRIPTION:
                        connection.execute(f"DELETE FROM {table} WHERE subscription = ?", (subscription,))

        await self._database.write(drop)

    async def prune(self, older_than: float, max_bytes: int) -> Pruned:
        """Remove events that are too old or beyond the budget, and that no subscription still needs.

        The budget is for the whole database; `older_than` is in seconds since the epoch.
        """
        return await log_retention.prune(self._database, self.head(), older_than, max_bytes)

    async def stats(self) -> LogStats:
        """How large the log is; cheap enough for every scrape."""
        (row,) = await self._database.read(_STATS)
        return LogStats(
            events=row["above"] - row["first"],
            bytes=await log_retention.used_bytes(self._database),
            head=self.head(),
            oldest_at=None if row["oldest"] is None else row["oldest"] / 1_000_000,
            retries=row["retries"],
            dead_letters=row["letters"],
        )


def _event(row: sqlite3.Row) -> StoredEvent:
    body = bytes(row["body"])
    return StoredEvent(row["sequence"], Event.trusted(body), body, row["appended_at"] / 1_000_000)


def _conditions(query: EventQuery) -> tuple[str, list[Any]]:
    """The WHERE clause of a query, and its values."""
    clauses: list[str] = []
    values: list[Any] = []
    if query.type is not None:
        # Only `*` is a wildcard of ours; the others of GLOB stand for themselves.
        glob = "*" in query.type
        clauses.append("type GLOB ?" if glob else "type = ?")
        values.append(query.type.replace("[", "[[]").replace("?", "[?]") if glob else query.type)
    for column, value in (("source", query.source), ("subject", query.subject)):
        if value is not None:
            clauses.append(f"{column} = ?")
            values.append(value)
    # `+` keeps SQLite from the index by time where a narrower one serves.
    time = "+appended_at" if clauses else "appended_at"
    for comparison, instant in ((">=", query.since), ("<", query.until)):
        if instant is not None:
            clauses.append(f"{time} {comparison} ?")
            values.append(int(instant * 1_000_000))
    return (f"WHERE {' AND '.join(clauses)}" if clauses else ""), values


def _order(query: EventQuery) -> str:
    """Newest first, in the order of the index that finds the events, so that nothing is sorted."""
    by_time = query.type is None and query.source is None and query.subject is None
    timed = query.since is not None or query.until is not None
    return "appended_at DESC, sequence DESC" if by_time and timed else "sequence DESC"


def _pairs(ahead: Mapping[str, Sequence[int]]) -> Iterable[tuple[str, int]]:
    return ((subscription, sequence) for subscription, found in ahead.items() for sequence in found)


def _many(connection: sqlite3.Connection, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
    connection.executemany(sql, rows)
