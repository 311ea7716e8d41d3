"""Appending to the SQLite log: sequences, duplicates, and telling the listeners after the commit.

Everything here but `committed` runs in the writer's thread, inside its transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import structlog

from host.routing import log_shares
from host.routing.errors import EventConflictError
from host.routing.event_log import Appended, StoredEvent
from plugin_sdk.clock import Clock
from plugin_sdk.events import Event

MAX_CHUNK: Final = 128
"""Rows in the largest INSERT. sqlite3 gives up the interpreter's lock at every statement and has to win it
back from a busy event loop, so few statements for many rows; of fixed sizes, so that each is prepared once."""
FEW: Final = 32
"""Rows up to which there is an INSERT for every number of them."""

_COLUMNS: Final = "sequence, source, id, type, subject, appended_at, body"
_SAME: Final = "SELECT sequence, body FROM events WHERE source = ? AND id = ?"
_KEPT: Final = "SELECT sequence FROM events WHERE sequence BETWEEN ? AND ?"

_log = structlog.get_logger(__name__)


def chunk_size(rows: int) -> int:
    """How many of `rows` rows (at least one) the next INSERT takes: all of a few, a power of two of many."""
    return rows if rows <= FEW else min(MAX_CHUNK, 1 << (rows.bit_length() - 1))


@cache
def _insert(rows: int) -> str:
    values = ",".join(["(?,?,?,?,?,?,?)"] * rows)
    return f"INSERT INTO events ({_COLUMNS}) VALUES {values} ON CONFLICT (id, source) DO NOTHING"


class Appender:
    """Gives events their sequence and writes them, a batch at a time.

    Attributes:
        head: The highest sequence that is durable.
        shares: What the durable events of each plugin weigh.
    """

    def __init__(self, head: int, clock: Clock, shares: Mapping[str, int]) -> None:
        self.head = head
        self.shares = Counter(shares)
        self._next = head + 1
        self._clock = clock
        self._fresh: list[StoredEvent] = []
        self._added: Counter[str] = Counter()
        self._listeners: list[Callable[[int, Sequence[StoredEvent]], None]] = []

    def listen(self, listener: Callable[[int, Sequence[StoredEvent]], None]) -> None:
        """Tell `listener` of the new events of each commit, and of the head that they follow."""
        self._listeners.append(listener)

    def apply(self, connection: sqlite3.Connection, items: Sequence[tuple[Event, bytes]]) -> list[Appended | Exception]:
        """Append events; one answer for each, in order."""
        now = self._clock.now().timestamp()
        answers: list[Appended | Exception] = []
        before = len(self._fresh)
        at = 0
        while at < len(items):
            size = chunk_size(len(items) - at)
            self._append(connection, items[at : at + size], now, answers)
            at += size
        added = log_shares.weigh(self._fresh[before:])
        if added:
            log_shares.add(connection, added)
            self._added.update(added)
        return answers

    def _append(
        self,
        connection: sqlite3.Connection,
        items: Sequence[tuple[Event, bytes]],
        now: float,
        answers: list[Appended | Exception],
    ) -> None:
        first = self._next
        self._next += len(items)
        stamp = int(now * 1_000_000)
        flat: list[Any] = []
        for sequence, (event, body) in enumerate(items, first):
            flat += (sequence, event.source, event.id, event.type, event.subject, stamp, body)
        inserted = connection.execute(_insert(len(items)), flat).rowcount
        if inserted == len(items):
            self._fresh += [StoredEvent(at, event, body, now) for at, (event, body) in enumerate(items, first)]
            answers += [Appended(at, duplicate=False) for at in range(first, self._next)]
            return
        kept = {row[0] for row in connection.execute(_KEPT, (first, self._next - 1))}
        for sequence, (event, body) in enumerate(items, first):
            if sequence in kept:
                self._fresh.append(StoredEvent(sequence, event, body, now))
                answers.append(Appended(sequence, duplicate=False))
            else:
                answers.append(self._twin(connection, event, body))

    @staticmethod
    def _twin(connection: sqlite3.Connection, event: Event, body: bytes) -> Appended | Exception:
        """What the log already has under this event's source and id."""
        sequence, stored = connection.execute(_SAME, (event.source, event.id)).fetchone()
        if stored == body or _content(stored) == _content(body):
            return Appended(sequence, duplicate=True)
        return EventConflictError(event.source, event.id)

    # -- the commit hook

    def mark(self) -> int:
        """How many events this transaction has so far."""
        return len(self._fresh)

    def rewind(self, mark: int) -> None:
        """The events since `mark` were rolled back; their sequences are not used again."""
        if len(self._fresh) > mark:
            del self._fresh[mark:]
            self._added = log_shares.weigh(self._fresh)

    def take(self) -> tuple[list[StoredEvent], Counter[str]]:
        """The events of the transaction that was just committed, and their weights."""
        taken = self._fresh, self._added
        self._fresh, self._added = [], Counter()
        return taken

    def committed(self, taken: tuple[list[StoredEvent], Counter[str]]) -> None:
        """On the loop: the events are durable."""
        events, added = taken
        if added:
            self.shares.update(added)
        if events:
            # Rows that other items of the batch rolled back leave gaps, never a different order.
            after, self.head = self.head, events[-1].sequence
            for listener in self._listeners:
                try:
                    listener(after, events)
                except Exception:  # noqa: BLE001 - logged with its traceback, and nothing else can be done
                    # The others still have to hear of it: what they miss they would never be offered again.
                    _log.exception("log_listener_failed")


def _content(body: bytes) -> Any:
    """An event's content for comparison: the trace context belongs to one sending, not to the event."""
    found = json.loads(body)
    found.pop("traceparent", None)
    found.pop("tracestate", None)
    return found
