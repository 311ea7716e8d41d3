"""Rows of events: appended many to a statement, and what the log has under their names already."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from host.storage.log_writer.frames import ROW

MAX_CHUNK: Final = 128
"""Rows in the largest INSERT: few statements for many rows; of fixed sizes, so that each is prepared once."""
FEW: Final = 32
"""Rows up to which there is an INSERT for every number of them."""

_COLUMNS: Final = "sequence, source, id, type, subject, appended_at, body"
_SAME: Final = "SELECT sequence, body FROM events WHERE source = ? AND id = ?"
_KEPT: Final = "SELECT sequence FROM events WHERE sequence BETWEEN ? AND ?"
_HEAD: Final = "SELECT max(sequence, (SELECT coalesce(max(sequence), 0) FROM events)) FROM log_head"


def chunk_size(rows: int) -> int:
    """How many of `rows` rows (at least one) the next INSERT takes: all of a few, a power of two of many."""
    return rows if rows <= FEW else min(MAX_CHUNK, 1 << (rows.bit_length() - 1))


@cache
def _insert(rows: int) -> str:
    values = ",".join(["(?,?,?,?,?,?,?)"] * rows)
    return f"INSERT INTO events ({_COLUMNS}) VALUES {values} ON CONFLICT (id, source) DO NOTHING"


def head(connection: sqlite3.Connection) -> int:
    """The highest sequence that was ever given."""
    return int(connection.execute(_HEAD).fetchone()[0])


def append(connection: sqlite3.Connection, rows: Sequence[Any], first: int, stamp: int) -> list[tuple[int, int, bool]]:
    """Append rows (`ROW` values each), the first one under the sequence `first`, each other under one more.

    Those that were not appended are answered: which row, where its twin stands, and whether that is the same event.
    """
    twins: list[tuple[int, int, bool]] = []
    count = len(rows) // ROW
    at = 0
    while at < count:
        size = chunk_size(count - at)
        flat: list[Any] = []
        for index in range(at, at + size):
            source, event_id, event_type, subject, body = rows[index * ROW : (index + 1) * ROW]
            flat += (first + index, source, event_id, event_type, subject, stamp, body)
        if connection.execute(_insert(size), flat).rowcount != size:
            stretch = (first + at, first + at + size - 1)
            kept = {row[0] for row in connection.execute(_KEPT, stretch)}
            twins += [_twin(connection, rows, index) for index in range(at, at + size) if first + index not in kept]
        at += size
    return twins


def _twin(connection: sqlite3.Connection, rows: Sequence[Any], index: int) -> tuple[int, int, bool]:
    """What the log has under this row's source and id."""
    source, event_id, _, _, body = rows[index * ROW : (index + 1) * ROW]
    sequence, stored = connection.execute(_SAME, (source, event_id)).fetchone()
    return index, sequence, stored == body or _content(stored) == _content(body)


def _content(body: bytes) -> Any:
    """An event's content for comparison: the trace context belongs to one sending, not to the event."""
    found = json.loads(body)
    found.pop("traceparent", None)
    found.pop("tracestate", None)
    return found
