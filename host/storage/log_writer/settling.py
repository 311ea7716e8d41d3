"""Rows of what deliveries come to: cursors, retries, attempt log, dead letters, the counts of replays."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec

from host.storage.log_writer.appending import chunk_size
from host.storage.log_writer.frames import LINE, Letter, Settled

MAX_HISTORY: Final = 100
"""Failed attempts of one delivery that are remembered beside its retry, the first ones."""

_LINES: Final = "plugin, subscription, sequence, event_id, attempt, outcome, started_at, duration, error"
_BURY: Final = (
    "INSERT INTO dead_letters (plugin, subscription, sequence, event_id, event_type, body, reason, "
    "traceback, attempts, at, history) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_CURSOR: Final = "SELECT position FROM cursors WHERE subscription = ?"
_NEW_CURSOR: Final = (
    "INSERT INTO cursors (subscription, position, holds) VALUES (?, ?, ?) "
    "ON CONFLICT (subscription) DO UPDATE SET holds = excluded.holds"
)
_MOVE: Final = "UPDATE cursors SET position = max(position, ?) WHERE subscription = ?"
_ADD_AHEAD: Final = "INSERT OR IGNORE INTO settled_ahead (subscription, sequence) VALUES (?, ?)"
_LEAVE_AHEAD: Final = "DELETE FROM settled_ahead WHERE subscription = ? AND sequence <= ?"
_ANY_AHEAD: Final = "SELECT 1 FROM settled_ahead WHERE subscription = ? LIMIT 1"
_ALL_AHEAD: Final = "SELECT DISTINCT subscription FROM settled_ahead"
_BEGIN: Final = (
    "INSERT INTO retries (subscription, sequence, attempt, due_at, error) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (subscription, sequence) DO UPDATE SET "
    "attempt = excluded.attempt, due_at = excluded.due_at, error = excluded.error"
)
_RETRY: Final = (
    "INSERT INTO retries (subscription, sequence, attempt, due_at, error, history) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (subscription, sequence) DO UPDATE SET "
    "attempt = excluded.attempt, due_at = excluded.due_at, error = excluded.error, "
    f"history = CASE WHEN json_array_length(history) < {MAX_HISTORY} "
    "THEN json_insert(history, '$[#]', json(json_extract(excluded.history, '$[0]'))) ELSE history END"
)
_HISTORY: Final = "SELECT history FROM retries WHERE subscription = ? AND sequence = ?"
_DECIDED: Final = "DELETE FROM retries WHERE subscription = ? AND sequence = ?"
_COUNT_REPLAYED: Final = (
    "UPDATE replays SET delivered = delivered + ?, dropped = dropped + ?, dead_lettered = dead_lettered + ?, "
    "retried = retried + ? WHERE id = ?"
)


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that is about to be made."""

    subscription: str
    sequence: int
    attempt: int
    due_at: float
    error: str


class CursorWanted(msgspec.Struct, frozen=True, array_like=True):
    """A subscription's cursor; a new one stands at `start`. `holds` is as of `EventLog.cursor`."""

    subscription: str
    start: int
    holds: bool


@cache
def _insert(rows: int) -> str:
    values = ",".join(["(?,?,?,?,?,?,?,?,?)"] * rows)
    return f"INSERT INTO deliveries ({_LINES}) VALUES {values}"


class Progress:
    """Writes outcomes and moves cursors.

    It remembers which subscriptions may have something settled above their cursor: to look for rows to remove costs as
    much as to move the cursor, and most subscriptions never have any.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._ahead = {row[0] for row in connection.execute(_ALL_AHEAD)}
        self._passed: set[str] = set()

    def committed(self) -> None:
        """What was written is durable."""
        self._ahead -= self._passed
        self._passed.clear()

    def rolled_back(self) -> None:
        """What was written since the last commit may be gone: whatever was there above a cursor still is."""
        self._passed.clear()

    def settle(self, settled: Settled) -> dict[str, int]:
        """Write outcomes with their cursors. Answers what the new dead letters weigh, by plugin."""
        connection = self._connection
        _write_lines(connection, settled.lines)
        weights = _bury(connection, settled.letters) if settled.letters else {}
        if settled.decided:
            connection.executemany(_DECIDED, settled.decided)
        if settled.retried:
            connection.executemany(
                _RETRY,
                [
                    (one.subscription, one.sequence, one.attempt, one.due_at, one.reason, f"[{one.entry}]")
                    for one in settled.retried
                ],
            )
        if settled.replayed:
            connection.executemany(_COUNT_REPLAYED, [(*counts, replay) for replay, *counts in settled.replayed])
        self._move(settled.cursors, settled.ahead)
        return weights

    def begin(self, attempts: Sequence[Attempt]) -> None:
        """Write down attempts that are about to be made, and that their events need not be read again."""
        self._noted({one.subscription for one in attempts})
        rows = [(one.subscription, one.sequence, one.attempt, one.due_at, one.error) for one in attempts]
        self._connection.executemany(_BEGIN, rows)
        self._connection.executemany(_ADD_AHEAD, [(one.subscription, one.sequence) for one in attempts])

    def cursor(self, wanted: CursorWanted) -> int:
        """Where a subscription stands; a new one stands at its start."""
        self._connection.execute(_NEW_CURSOR, (wanted.subscription, wanted.start, int(wanted.holds)))
        return int(self._connection.execute(_CURSOR, (wanted.subscription,)).fetchone()[0])

    def _move(self, cursors: Mapping[str, int], ahead: Mapping[str, Sequence[int]]) -> None:
        connection = self._connection
        for subscription, found in ahead.items():
            if found:
                self._noted({subscription})
                connection.executemany(_ADD_AHEAD, [(subscription, sequence) for sequence in found])
        for subscription, position in cursors.items():
            connection.execute(_MOVE, (position, subscription))
            if subscription in self._ahead and subscription not in self._passed:
                connection.execute(_LEAVE_AHEAD, (subscription, position))
                if not connection.execute(_ANY_AHEAD, (subscription,)).fetchone():
                    self._passed.add(subscription)

    def _noted(self, subscriptions: Collection[str]) -> None:
        self._ahead.update(subscriptions)
        self._passed.difference_update(subscriptions)


def _write_lines(connection: sqlite3.Connection, lines: Sequence[Any]) -> None:
    """Add lines to the attempt log, many to a statement."""
    count = len(lines) // LINE
    at = 0
    while at < count:
        size = chunk_size(count - at)
        connection.execute(_insert(size), lines[at * LINE : (at + size) * LINE])
        at += size


def _bury(connection: sqlite3.Connection, letters: Sequence[Letter]) -> dict[str, int]:
    """Keep dead letters, each with its own copy of the event and the history of its attempts; what they weigh."""
    weights: Counter[str] = Counter()
    rows = []
    for one in letters:
        history = _history(connection, one)
        weights[one.plugin] += len(one.body) + sum(len(text.encode()) for text in (one.reason, one.traceback, history))
        rows.append(
            (
                one.plugin,
                one.home,
                one.sequence,
                one.event_id,
                one.event_type,
                one.body,
                one.reason,
                one.traceback,
                one.attempts,
                one.at,
                history,
            )
        )
    connection.executemany(_BURY, rows)
    return dict(weights)


def _history(connection: sqlite3.Connection, letter: Letter) -> str:
    """Every attempt at a delivery, the last one included, as JSON; read before its row goes."""
    row = connection.execute(_HISTORY, (letter.subscription, letter.sequence)).fetchone() if letter.noted else None
    earlier = json.loads(row[0]) if row else []
    return json.dumps([*earlier, json.loads(letter.entry)])
