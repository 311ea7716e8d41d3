"""Rows of schedules as they fire: moved on in the transaction that appends their firings.

A crash fires a schedule once or leaves it due, and two looks at one instant fire it once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import msgspec

KEPT_FIRINGS: Final = 1000
"""Rows of history kept for each schedule; those of firings that may not be settled stay for as many more."""

_MOVE: Final = (
    "UPDATE schedules SET next_due = ?, dispatch_at = ?, seen = ?, queued_due = ?, last_due = ?, last_fired = ?, "
    "error = ? WHERE id = ? AND active = 1 AND paused = 0 AND next_due IS ? AND queued_due IS ? AND anchor = ?"
)
_EXISTS: Final = "SELECT 1 FROM schedules WHERE id = ?"
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
_CLOSE: Final = "UPDATE firings SET open = 0 WHERE open = 1 AND schedule = ? AND sequence = ?"

Place = tuple[int, bool | None]
"""Where an event stands in the log, and whether it is new there (True), known (False), or another one (None)."""


class Fire(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """An instant that fires: which of the operation's rows is its event, and its line of history. `due` is RFC 3339."""

    row: int
    due: str
    event_id: str
    by_hand: bool
    reason: str
    lateness: float


class Skip(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Instants that did not fire, from `due` to `last_due` (RFC 3339), and why."""

    due: str
    last_due: str
    count: int
    reason: str
    lateness: float


class Move(msgspec.Struct, frozen=True, array_like=True):
    """A schedule on its way: what it becomes, what must still be so, what was settled, and what is decided."""

    schedule: str
    next_due: float | None
    dispatch_at: float | None
    seen: float | None
    queued_due: float | None
    last_due: float | None
    last_fired: float | None
    error: str
    known_next_due: float | None
    known_queued_due: float | None
    known_anchor: float
    settled: list[int]
    decided: list[Fire | Skip]


class Moves(msgspec.Struct, frozen=True, array_like=True):
    """Schedules that move on. `now` is in seconds since the epoch; `conflict` is why an event could not be appended."""

    now: float
    conflict: str
    moves: list[Move]


class ByHand(msgspec.Struct, frozen=True, array_like=True):
    """A firing that somebody asked for."""

    now: float
    schedule: str
    fire: Fire


def move(connection: sqlite3.Connection, moves: Moves, place: Callable[[int], Place]) -> list[tuple[bool, list[int]]]:
    """Move schedules on and fire what is due, but for those that someone changed meanwhile.

    `place` appends one of the operation's rows. Answers for each schedule whether it moved, and which of its rows
    are in conflict with other events of the log.
    """
    answers: list[tuple[bool, list[int]]] = []
    for one in moves.moves:
        values = (
            one.next_due,
            one.dispatch_at,
            one.seen,
            one.queued_due,
            one.last_due,
            one.last_fired,
            one.error,
            one.schedule,
            one.known_next_due,
            one.known_queued_due,
            one.known_anchor,
        )
        if connection.execute(_MOVE, values).rowcount != 1:
            answers.append((False, []))
            continue
        close(connection, one.schedule, one.settled)
        conflicts = []
        for decided in one.decided:
            if isinstance(decided, Skip):
                note_skipped(connection, one.schedule, decided, moves.now)
            elif not _fire(connection, one.schedule, decided, moves.now, place):
                conflicts.append(decided.row)
                skip = Skip(decided.due, decided.due, 1, moves.conflict, decided.lateness)
                note_skipped(connection, one.schedule, skip, moves.now)
        answers.append((True, conflicts))
    return answers


def fire_by_hand(connection: sqlite3.Connection, asked: ByHand, place: Callable[[int], Place]) -> bool | None:
    """Fire a schedule beside its rule: False where there is none, None where another event has the firing's id."""
    if connection.execute(_EXISTS, (asked.schedule,)).fetchone() is None:
        return False
    return _fire(connection, asked.schedule, asked.fire, asked.now, place) or None


def _fire(connection: sqlite3.Connection, schedule: str, fire: Fire, now: float, place: Callable[[int], Place]) -> bool:
    """Append a firing and note it, once; False where another event stands in its place."""
    sequence, new = place(fire.row)
    if new:
        row = (fire.due, now, fire.event_id, int(fire.by_hand), "fired", fire.reason, 1, fire.lateness, None)
        _add(connection, schedule, (*row, sequence, 1))
    return new is not None


def note_skipped(connection: sqlite3.Connection, schedule: str, skip: Skip, now: float) -> None:
    """Add instants that did not fire; those that follow others of the same reason are one row with them."""
    latest = connection.execute(_LATEST, (schedule,)).fetchone()
    if latest is not None and (latest[1], latest[2]) == ("skipped", skip.reason):
        connection.execute(_EXTEND, (skip.count, skip.last_due, now, latest[0]))
        return
    row = (skip.due, now, "", 0, "skipped", skip.reason, skip.count, skip.lateness, skip.last_due)
    _add(connection, schedule, (*row, None, 0))


def close(connection: sqlite3.Connection, schedule: str, sequences: Collection[int]) -> None:
    """Note that these firings are settled."""
    connection.executemany(_CLOSE, [(schedule, sequence) for sequence in sequences])


def _add(connection: sqlite3.Connection, schedule: str, values: Sequence[Any]) -> None:
    """Add a row of history; the oldest ones beyond what is kept are dropped."""
    connection.execute(_ADD, (schedule, *values))
    connection.execute(_TRIM, (schedule, KEPT_FIRINGS))
