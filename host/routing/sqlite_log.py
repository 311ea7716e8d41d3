"""`SQLiteLog`: the embedded event log, and the SQL of its events.

Appending is in `log_appending`, cursors and retries in `log_progress`, attempts and dead letters in
`log_deliveries`, pruning in `log_retention`.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from host.routing import log_deliveries, log_progress, log_retention, log_shares
from host.routing.event_log import (
    Appended,
    DeadLetterRecord,
    DeliveryQuery,
    DeliveryRecord,
    EventQuery,
    Held,
    HeldPlace,
    LetterQuery,
    LogStats,
    PendingRetry,
    Pruned,
    Settlement,
    StoredEvent,
)
from host.routing.log_appending import Appender
from host.storage.database import Database
from host.storage.log_writer.settling import Attempt, CursorWanted
from plugin_sdk.clock import Clock
from plugin_sdk.events import Event

MAX_PAGE_BYTES: Final = 8 * 2**20
"""Bytes of events that a page of a query has whole; those after them come in outline."""
MAX_READ_BYTES: Final = 2**20
"""Bytes of events that one reading answers; a single larger event comes alone. Every subscription that is behind holds
as much, and several times that once it is decoded."""
MAX_COUNTED: Final = 100_000
"""Matches that a query counts; more are said to be as many."""

_HEAD: Final = "SELECT max(sequence, (SELECT coalesce(max(sequence), 0) FROM events)) FROM log_head"
# Wherever events are read, their sizes are added up before a body is, so that no reader holds a batch of large ones.
_READ: Final = (
    "SELECT sequence, appended_at, body FROM events WHERE sequence IN (SELECT sequence FROM ("
    "SELECT sequence, sum(size) OVER (ORDER BY sequence ROWS UNBOUNDED PRECEDING) - size AS before FROM ("
    "SELECT sequence, length(body) AS size FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?)) "
    f"WHERE before < {MAX_READ_BYTES}) ORDER BY sequence"
)
_FIND: Final = "SELECT sequence, appended_at, body FROM events WHERE id = ? ORDER BY sequence LIMIT 100"
_AHEAD: Final = "SELECT sequence FROM settled_ahead WHERE subscription = ?"
# As in `_READ`. Whoever has the first of them settles it, and then looks for the rest.
_DUE: Final = (
    "SELECT r.subscription, r.sequence, r.attempt, r.due_at, r.error, coalesce(r.body, e.body) AS body, "
    "coalesce(e.appended_at, 0) AS appended_at FROM retries r LEFT JOIN events e USING (sequence) "
    "WHERE r.subscription = :subscription AND r.sequence IN (SELECT sequence FROM ("
    "SELECT sequence, sum(size) OVER (ORDER BY due_at, sequence ROWS UNBOUNDED PRECEDING) - size AS before FROM ("
    "SELECT r.sequence, r.due_at, coalesce(length(r.body), length(e.body)) AS size "
    "FROM retries r LEFT JOIN events e USING (sequence) "
    "WHERE r.subscription = :subscription AND r.due_at <= :now AND coalesce(length(r.body), length(e.body)) > 0 "
    "AND r.sequence NOT IN (SELECT value FROM json_each(:besides)) ORDER BY r.due_at, r.sequence LIMIT :limit)) "
    f"WHERE before < {MAX_READ_BYTES}) ORDER BY r.due_at, r.sequence"
)
_NEXT_DUE: Final = "SELECT min(due_at) FROM retries WHERE subscription = ? AND due_at > ?"
_SHIFT: Final = "UPDATE retries SET due_at = due_at + ?"
_WAITING: Final = "SELECT count(*) FROM retries WHERE subscription = ?"
_WAITING_EVENTS: Final = (
    "SELECT sequence, appended_at, body FROM events WHERE sequence IN (SELECT sequence FROM ("
    "SELECT sequence, sum(size) OVER (ORDER BY sequence ROWS UNBOUNDED PRECEDING) - size AS before FROM ("
    "SELECT r.sequence, length(e.body) AS size FROM retries r JOIN events e USING (sequence) "
    "WHERE r.subscription = ? AND r.body IS NULL AND r.sequence > ? ORDER BY r.sequence LIMIT ?)) "
    f"WHERE before < {MAX_READ_BYTES}) ORDER BY sequence"
)
OUTCOME_BYTES: Final = 256
"""What one outcome weighs on its way to the disk, beside the event and the traceback of a dead letter."""
WAITING_AT_ONCE: Final = 16
"""Of these, which may all be of the largest size, so many are read at once."""
_ABOVE: Final = "SELECT count(*), coalesce(sum(length(body)), 0) FROM events WHERE sequence > ?"
_PLUGINS: Final = (
    "SELECT substr(subscription, 1, instr(subscription, '/') - 1) FROM (SELECT subscription FROM cursors "
    "UNION SELECT subscription FROM retries UNION SELECT subscription FROM settled_ahead) "
    "UNION SELECT plugin FROM dead_letters UNION SELECT plugin FROM deliveries "
    "UNION SELECT plugin FROM replays"
)
_LETTERS: Final = f"SELECT plugin, count(*), sum({log_deliveries.LETTER_WEIGHT}) FROM dead_letters GROUP BY plugin"
_NEWEST: Final = "appended_at DESC, sequence DESC"
"""The order of every index of a query, so that nothing is sorted."""
_STATS: Final = (
    "SELECT (SELECT coalesce(max(sequence) + 1, 0) FROM events) AS above, "
    "(SELECT coalesce(min(sequence), 0) FROM events) AS first, "
    "(SELECT appended_at FROM events ORDER BY sequence LIMIT 1) AS oldest, "
    "(SELECT count(*) FROM retries) AS retries, (SELECT count(*) FROM dead_letters) AS letters"
)


class SQLiteLog:
    """The event log in the host's database. Make it with `open`."""

    def __init__(
        self, database: Database, appender: Appender, clock: Clock, letters: Mapping[str, tuple[int, int]]
    ) -> None:
        self._database = database
        self._letters = Counter({plugin: count for plugin, (count, _) in letters.items()})
        self._letter_bytes = Counter({plugin: size for plugin, (_, size) in letters.items()})
        self._clock = clock
        self._appender = appender
        self._writer = database.log
        self._writer.attach(appender)

    @classmethod
    async def open(cls, database: Database, clock: Clock) -> SQLiteLog:
        """Take up the log where it ends."""
        rows = await database.read(_HEAD)
        letters = {row[0]: (int(row[1]), int(row[2])) for row in await database.read(_LETTERS)}
        shares = {row[0]: int(row[1]) for row in await database.read(log_shares.ALL)}
        return cls(database, Appender(int(rows[0][0]), clock, shares), clock, letters)

    # -- events

    def head(self) -> int:
        """The highest sequence that is durable."""
        return self._appender.head

    def listen(self, committed: Callable[[int, Sequence[StoredEvent]], None]) -> None:
        """Call `committed` as `EventLog.listen` says."""
        self._appender.listen(committed)

    def append(self, event: Event, body: bytes) -> asyncio.Future[Appended]:
        """Append an event; the future is done once it is durable. Errors as in `EventLog.append`."""
        return self._writer.append((event, body), weight=len(body))

    async def operate(self, name: str, arguments: Any, events: Sequence[Event] = ()) -> Any:
        """Have the log's writer execute a named operation, in a transaction with the events that it appends.

        The arguments are a value that MessagePack carries; the operation names events by their place in `events`. They
        become visible with its commit and never without it. Answers what the operation does.

        Raises:
            RowRefusedError: it was refused for its own sake; nothing of it was kept.
            StorageBusyError: too much waits already; nothing was kept.
            StorageFailedError: the disk refused it.
        """
        items = [(event, event.to_json()) for event in events]
        weight = sum(len(body) for _, body in items)
        return await self._writer.operate(name, arguments, items, weight=weight)

    async def read(self, after: int, limit: int) -> list[StoredEvent]:
        """The events above `after`, in order: at most `limit`, and some 1 MiB."""
        return [_event(row) for row in await self._database.read(_READ, (after, limit))]

    async def find(self, event_id: str) -> list[StoredEvent]:
        """The events with this id."""
        return [_event(row) for row in await self._database.read(_FIND, (event_id,))]

    async def query(self, query: EventQuery, offset: int, limit: int) -> tuple[list[StoredEvent], int]:
        """A page of matching events, the newest first, and how many match, counted up to `MAX_COUNTED`.

        Beyond `MAX_PAGE_BYTES` they have neither payload nor body.
        """
        where, values = _conditions(query)
        counted = await self._database.read(
            f"SELECT count(*) FROM (SELECT 1 FROM events {where} LIMIT {MAX_COUNTED})", values
        )
        # Places first, then sizes, bodies last: SQLite sorts what it must without those that are not wanted.
        rows = await self._database.read(
            f"SELECT e.sequence, e.appended_at, e.id, e.source, e.type, e.subject, "
            f"CASE WHEN p.total <= {MAX_PAGE_BYTES} THEN e.body END AS body FROM ("
            f"SELECT sequence, sum(length(body)) OVER (ORDER BY {_NEWEST} ROWS UNBOUNDED PRECEDING) AS total "
            "FROM events WHERE sequence IN ("
            f"SELECT sequence FROM events {where} ORDER BY {_NEWEST} LIMIT ? OFFSET ?)) AS p "
            "JOIN events e USING (sequence) ORDER BY e.appended_at DESC, e.sequence DESC",
            (*values, limit, offset),
        )
        found = [_event(row) if row["body"] is not None else _outline(row) for row in rows]
        return found, int(counted[0][0])

    # -- cursors and outcomes

    async def cursor(self, subscription: str, *, start: int, holds: bool = True) -> int:
        """Where a subscription stands; a new one is made to stand at `start`."""
        return int(await self.operate("cursor", CursorWanted(subscription, start, holds)))

    async def ahead(self, subscription: str) -> set[int]:
        """What is settled above the cursor."""
        return {row[0] for row in await self._database.read(_AHEAD, (subscription,))}

    async def settle(
        self, outcomes: Sequence[Settlement], cursors: Mapping[str, int], ahead: Mapping[str, Sequence[int]]
    ) -> None:
        """Write outcomes, cursors, and what was settled above them, in one transaction."""
        settled = log_progress.settled(outcomes, cursors, ahead, self._clock.now().timestamp())
        weight = OUTCOME_BYTES * len(outcomes) + sum(len(one.body) + len(one.traceback) for one in settled.letters)
        buried = await self._writer.settle(settled, weight=weight)
        self._letters.update(one.plugin for one in settled.letters)
        self._letter_bytes.update(buried)

    # -- retries

    async def begin(self, attempts: Sequence[PendingRetry]) -> None:
        """Write down attempts that are about to be made."""
        noted = [Attempt(one.subscription, one.sequence, one.attempt, one.due_at, one.error) for one in attempts]
        await self.operate("begin", noted)

    async def waiting_retries(self, subscription: str) -> int:
        """How many deliveries wait for their next attempt."""
        return int((await self._database.read(_WAITING, (subscription,)))[0][0])

    async def shift_retries(self, seconds: float) -> None:
        """Move every due time by `seconds`."""
        await self._database.write(lambda connection: connection.execute(_SHIFT, (seconds,)).rowcount)

    async def waiting_events(self, subscription: str, after: int, limit: int) -> list[StoredEvent]:
        """Events above `after` whose delivery failed and is to be made again, in order; bounds as of `read`."""
        return [_event(row) for row in await self._database.read(_WAITING_EVENTS, (subscription, after, limit))]

    async def due(
        self, subscription: str, now: float, limit: int, besides: Collection[int] = ()
    ) -> list[tuple[PendingRetry, StoredEvent]]:
        """Retries due at `now` besides those of some sequences, the longest due first; bounds as of `read`."""
        wanted = {"subscription": subscription, "now": now, "limit": limit, "besides": json.dumps(list(besides))}
        rows = await self._database.read(_DUE, wanted)
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

    def kept_letters(self, plugin: str) -> int:
        """How many dead letters of a plugin are kept."""
        return self._letters[plugin]

    def letter_bytes(self, plugin: str) -> int:
        """What they weigh."""
        return self._letter_bytes[plugin]

    async def dead_letters(self, query: LetterQuery, offset: int, limit: int) -> tuple[list[DeadLetterRecord], int]:
        """A page of dead letters, the newest first, and how many fit."""
        return await log_deliveries.letters(self._database, query, offset, limit)

    async def revive(self, letters: Collection[int]) -> tuple[list[DeadLetterRecord], Mapping[str, int]]:
        """Move dead letters back to be delivered; those that there were, and how many more deliveries wait."""
        now = self._clock.now().timestamp()
        waiting: Counter[str] = Counter()

        def revive(connection: sqlite3.Connection, one: DeadLetterRecord) -> None:
            waiting[one.subscription] += log_progress.revive(connection, one, now)

        return await self._take_letters(letters, revive), waiting

    async def discard(self, letters: Collection[int]) -> list[DeadLetterRecord]:
        """Remove dead letters for good; those that there were."""
        return await self._take_letters(letters, lambda _connection, _one: None)

    async def _take_letters(
        self, letters: Collection[int], then: Callable[[sqlite3.Connection, DeadLetterRecord], None]
    ) -> list[DeadLetterRecord]:
        def write(connection: sqlite3.Connection) -> list[DeadLetterRecord]:
            taken = [found for one in letters if (found := log_deliveries.take_letter(connection, one)) is not None]
            for one in taken:
                then(connection, one)
            return taken

        taken = await self._database.write(write)
        self._letters.subtract(one.plugin for one in taken)
        for one in taken:
            self._letter_bytes[one.plugin] -= log_deliveries.letter_weight(one)
        return taken

    async def deliveries(
        self, plugin: str, query: DeliveryQuery, offset: int, limit: int
    ) -> tuple[list[DeliveryRecord], int]:
        """A page of the attempt log of a plugin, the newest first, and how many lines fit."""
        return await log_deliveries.lines(self._database, plugin, query, offset, limit)

    # -- housekeeping

    async def forget(self, plugin: str) -> None:
        """Drop a plugin's cursors, retries, dead letters and attempt log."""
        await self._database.write(lambda connection: log_progress.forget(connection, plugin))
        for table in ("dead_letters", "deliveries", "replays"):
            # A chunk at a time; what a crash leaves is found among `plugins` at the next start.
            while await self._database.write(partial(log_deliveries.forget, table=table, plugin=plugin)):
                pass
        del self._letters[plugin]
        del self._letter_bytes[plugin]

    async def plugins(self) -> set[str]:
        """The plugins that have something here."""
        return {row[0] for row in await self._database.read(_PLUGINS)}

    async def retire(self, plugin: str, kept: Collection[str]) -> int:
        """Drop the cursors and retries of a plugin's subscriptions other than `kept` (ids); how many."""
        return await self._database.write(lambda connection: log_progress.retire(connection, plugin, kept))

    async def held(self, plugin: str) -> Held:
        """What the log keeps for a plugin."""
        head = self.head()
        places, lowest = await self._database.write(lambda connection: log_progress.held(connection, plugin, head))
        ((events, size),) = await self._database.read(_ABOVE, (lowest,))
        return Held(int(events), int(size), places)

    async def skip(self, plugin: str) -> tuple[HeldPlace, ...]:
        """Move the cursors of a plugin's subscriptions to the end of the log; what each of them did not have."""
        head = self.head()
        return await self._database.write(lambda connection: log_progress.skip(connection, plugin, head))

    async def release(self, subscription: str) -> None:
        """Drop the cursor and the retries of one subscription."""
        await self._database.write(lambda connection: log_progress.drop_subscription(connection, subscription))

    async def prune(self, older_than: float, max_bytes: int) -> Pruned:
        """Remove events that are too old or beyond the budget, and that no subscription still needs.

        The budget is for the whole database; `older_than` is in seconds since the epoch.
        """
        return await log_retention.prune(self._database, self.head(), older_than, max_bytes, self._appender.shares)

    def plugin_bytes(self, plugin: str) -> int:
        """What the events of a plugin take of the log."""
        return self._appender.shares[plugin]

    async def prune_plugin(self, plugin: str, max_bytes: int) -> Pruned:
        """Remove a plugin's own oldest events that no subscription still needs, until they take `max_bytes`."""
        return await log_retention.prune_plugin(self._database, self.head(), plugin, max_bytes, self._appender.shares)

    async def used_bytes(self) -> int:
        """Bytes of the database that hold something."""
        return await log_retention.used_bytes(self._database)

    async def stats(self) -> LogStats:
        """How large the log is; cheap enough for every scrape."""
        (row,) = await self._database.read(_STATS)
        return LogStats(
            events=row["above"] - row["first"],
            bytes=await self.used_bytes(),
            head=self.head(),
            oldest_at=None if row["oldest"] is None else row["oldest"] / 1_000_000,
            retries=row["retries"],
            dead_letters=row["letters"],
        )


def _event(row: sqlite3.Row) -> StoredEvent:
    body = bytes(row["body"])
    return StoredEvent(row["sequence"], Event.trusted(body), body, row["appended_at"] / 1_000_000)


def _outline(row: sqlite3.Row) -> StoredEvent:
    """An event as far as the columns of its row go."""
    event = Event(id=row["id"], source=row["source"], type=row["type"], subject=row["subject"])
    return StoredEvent(row["sequence"], event, b"", row["appended_at"] / 1_000_000)


def _without_payload(stored: StoredEvent) -> StoredEvent:
    """An event as far as its attributes go."""
    event = msgspec.structs.replace(stored.event, data=msgspec.UNSET, data_base64=None)
    return StoredEvent(stored.sequence, event, b"", stored.appended_at)


def _conditions(query: EventQuery) -> tuple[str, list[Any]]:
    """The WHERE clause of a query, and its values."""
    clauses: list[str] = []
    values: list[Any] = []
    if query.type is not None:
        patterned = "*" in query.type
        clauses.append("type GLOB ?" if patterned else "type = ?")
        values.append(log_deliveries.glob(query.type) if patterned else query.type)
    for column, value in (("source", query.source), ("subject", query.subject)):
        if value is not None:
            clauses.append(f"{column} = ?")
            values.append(value)
    for comparison, instant in ((">=", query.since), ("<", query.until)):
        if instant is not None:
            clauses.append(f"appended_at {comparison} ?")
            values.append(int(instant * 1_000_000))
    return (f"WHERE {' AND '.join(clauses)}" if clauses else ""), values
