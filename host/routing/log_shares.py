"""What the events of each plugin weigh in the log: counted in the very transactions that append and remove them.

A plugin's are those that it emitted and those that its webhooks brought in; the source says so, which nobody else may
use for what goes through the plugin's own port. Functions that take a connection run in the writer's thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from host.storage.log_writer.shares import BROUGHT, EMITTED, OVERHEAD, add, owner, weight_of
from plugin_sdk.events import Event

# Beside the body, each of these attributes stands in the row and in an index.
_WEIGHT: Final = (
    "(length(body) + 2 * (length(CAST(id AS BLOB)) + length(CAST(type AS BLOB)) "
    f"+ coalesce(length(CAST(subject AS BLOB)), 0)) + {OVERHEAD})"
)
ALL: Final = "SELECT plugin, bytes FROM log_shares"
"""What every plugin has in the log."""
# The plus keeps SQLite from an index: the stretch is short, and all of it is about to be removed.
_OF_STRETCH: Final = (
    f"SELECT source, sum({_WEIGHT}) FROM events WHERE sequence BETWEEN ? AND ? AND appended_at < ? AND "
    "((+source >= '/plugins/' AND +source < '/plugins0') OR (+source >= '/hooks/' AND +source < '/hooks0')) "
    "GROUP BY +source"
)
# The time bounds what is read of the index where much is held; after a clock was set back, less may be found.
_TIME_OF: Final = "SELECT appended_at FROM events WHERE sequence <= ? ORDER BY sequence DESC LIMIT 1"
_OLDEST_EMITTED: Final = (
    f"SELECT sequence, {_WEIGHT} FROM events WHERE source = ? AND appended_at <= ? AND sequence <= ? "
    "ORDER BY appended_at LIMIT ?"
)
_OLDEST_BROUGHT: Final = (
    f"SELECT sequence, {_WEIGHT} FROM events WHERE source > ? AND source < ? AND appended_at <= ? AND sequence <= ? "
    "LIMIT ?"
)
_DROP: Final = "DELETE FROM events WHERE sequence IN (SELECT value FROM json_each(?))"
_PASSED_OVER: Final = (
    "SELECT subscription, (SELECT count(*) FROM json_each(?) WHERE value > position) AS passed "
    "FROM cursors WHERE NOT holds"
)
_LOST_RETRIES: Final = (
    "DELETE FROM retries WHERE body IS NULL AND sequence IN (SELECT value FROM json_each(?)) AND subscription IN "
    "(SELECT subscription FROM cursors WHERE NOT holds) RETURNING subscription"
)


@dataclass(frozen=True, slots=True)
class Removed:
    """A chunk of one plugin's events that was removed: how many, their weight, and who has lost how many by it."""

    events: int
    bytes: int
    skipped: Counter[str]


def weight(event: Event, body: bytes) -> int:
    """What an event is charged."""
    return weight_of(event.id, event.type, event.subject, body)


def remove_stretch(connection: sqlite3.Connection, first: int, last: int, cutoff: int) -> Counter[str]:
    """Take off what events about to be removed weigh, by plugin: those of a stretch that are older than `cutoff`."""
    found: Counter[str] = Counter()
    for source, bytes_ in connection.execute(_OF_STRETCH, (first, last, cutoff)):
        found[owner(source) or ""] += int(bytes_)
    add(connection, {plugin: -bytes_ for plugin, bytes_ in found.items()})
    return found


def remove_oldest(connection: sqlite3.Connection, plugin: str, floor: int, chunk: int, excess: int) -> Removed:
    """Remove a plugin's oldest events up to the place `floor`, at most `chunk` and no more than take `excess` bytes."""
    until = connection.execute(_TIME_OF, (floor,)).fetchone()
    if until is None:
        return Removed(0, 0, Counter())
    emitted, brought = EMITTED + plugin, f"{BROUGHT}{plugin}/"
    rows = connection.execute(_OLDEST_EMITTED, (emitted, until[0], floor, chunk)).fetchall()
    if not rows:
        beyond = brought[:-1] + "0"  # the character after the slash: the end of everything below it
        rows = connection.execute(_OLDEST_BROUGHT, (brought, beyond, until[0], floor, chunk)).fetchall()
    going: list[int] = []
    freed = 0
    for sequence, bytes_ in rows:
        if freed >= excess:
            break
        going.append(sequence)
        freed += bytes_
    return Removed(len(going), freed, _drop(connection, plugin, going, freed) if going else Counter())


def _drop(connection: sqlite3.Connection, plugin: str, going: Sequence[int], freed: int) -> Counter[str]:
    listed = json.dumps(going)
    skipped = Counter({row[0]: int(row[1]) for row in connection.execute(_PASSED_OVER, (listed,)) if row[1]})
    skipped.update(row[0] for row in connection.execute(_LOST_RETRIES, (listed,)).fetchall())
    connection.execute(_DROP, (listed,))
    add(connection, {plugin: -freed})
    return skipped
