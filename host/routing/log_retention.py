"""What may leave the log, and its leaving: old events and those beyond the budget, never one still needed.

Needed is what a subscription has not had, unless its policy says that it does without what is too old.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from functools import partial
from typing import Final

from host.routing import log_shares
from host.routing.event_log import Pruned
from host.routing.log_deliveries import trim
from host.storage.database import Database

PRUNE_CHUNK: Final = 1_000
"""Events that one transaction removes; some 10 ms, so that appends are not kept waiting."""
_ANY_AGE: Final = 2**63 - 1

# A retry that carries its own body needs no event; one whose subscription is gone is nobody's any more.
_FLOORS: Final = (
    "SELECT subscription, min(position) AS position FROM ("
    "SELECT subscription, position FROM cursors WHERE holds UNION ALL "
    "SELECT subscription, sequence - 1 FROM retries WHERE body IS NULL AND subscription IN "
    "(SELECT subscription FROM cursors WHERE holds)) GROUP BY subscription ORDER BY position"
)
# Only the oldest chunk is looked at, so that a log with nothing to remove is not read to its end.
_OLDEST: Final = (
    "SELECT sequence FROM (SELECT sequence, appended_at FROM events WHERE sequence <= ? "
    "ORDER BY sequence LIMIT ?) WHERE appended_at < ? ORDER BY sequence"
)
_PASSED_OVER: Final = "SELECT subscription, ? - position AS passed FROM cursors WHERE NOT holds AND position < ?"
_MOVE_ON: Final = "UPDATE cursors SET position = ? WHERE NOT holds AND position < ?"
_LOST_RETRIES: Final = (
    "DELETE FROM retries WHERE body IS NULL AND sequence <= ? AND subscription IN "
    "(SELECT subscription FROM cursors WHERE NOT holds) RETURNING subscription"
)
_REMOVE: Final = "DELETE FROM events WHERE sequence BETWEEN ? AND ? AND appended_at < ?"
_KEEP_HEAD: Final = "UPDATE log_head SET sequence = max(sequence, (SELECT coalesce(max(sequence), 0) FROM events))"
_FIRST: Final = "SELECT appended_at FROM events ORDER BY sequence LIMIT 1"
_BYTES: Final = (
    "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)


async def used_bytes(database: Database) -> int:
    """Bytes of the database file that hold something."""
    return int((await database.read(_BYTES))[0][0])


async def prune(
    database: Database, head: int, older_than: float, max_bytes: int, shares: Counter[str] | None = None
) -> Pruned:
    """Remove events up to `head` as `EventLog.prune` says, a chunk to a transaction; trim the attempt log.

    What plugins have less in the log by it is taken off `shares`.
    """
    cutoff = int(older_than * 1_000_000)
    removed, skipped = 0, Counter[str]()
    shares = Counter() if shares is None else shares
    while found := await _remove_oldest(database, head, cutoff, skipped, shares):
        removed += found
    while await used_bytes(database) > max_bytes:
        found = await _remove_oldest(database, head, _ANY_AGE, skipped, shares)
        if not found:
            break
        removed += found
    while await database.write(trim):
        pass  # a chunk at a time
    first = await database.read(_FIRST)
    if not first or (first[0][0] >= cutoff and await used_bytes(database) <= max_bytes):
        return Pruned(removed, (), dict(skipped))
    return Pruned(removed, await _holders(database), dict(skipped))


async def prune_plugin(database: Database, head: int, plugin: str, max_bytes: int, shares: Counter[str]) -> Pruned:
    """Remove a plugin's own oldest events as `EventLog.prune_plugin` says, a chunk to a transaction."""
    removed, skipped = 0, Counter[str]()

    def remove(connection: sqlite3.Connection, excess: int) -> log_shares.Removed:
        connection.execute(_KEEP_HEAD)
        return log_shares.remove_oldest(connection, plugin, _floor(connection, head), PRUNE_CHUNK, excess)

    while (excess := shares[plugin] - max_bytes) > 0:
        found = await database.write(partial(remove, excess=excess))
        if not found.events:
            break
        removed += found.events
        shares[plugin] -= found.bytes
        skipped.update(found.skipped)
    held_by = await _holders(database) if shares[plugin] > max_bytes else ()
    return Pruned(removed, held_by, dict(skipped))


async def _holders(database: Database) -> tuple[str, ...]:
    """The subscriptions that are the furthest behind."""
    floors = await database.read(_FLOORS)
    return tuple(row["subscription"] for row in floors if row["position"] == floors[0]["position"])


def _floor(connection: sqlite3.Connection, head: int) -> int:
    """The last place of the log that nobody needs any more."""
    lowest = connection.execute(_FLOORS).fetchone()
    return head if lowest is None else min(int(lowest["position"]), head)


async def _remove_oldest(
    database: Database, head: int, cutoff: int, skipped: Counter[str], shares: Counter[str]
) -> int:
    """Remove one chunk of what nobody needs any more, as it stands in this very transaction."""

    def remove(connection: sqlite3.Connection) -> tuple[int, Counter[str], Counter[str]]:
        floor = _floor(connection, head)
        rows = connection.execute(_OLDEST, (floor, PRUNE_CHUNK, cutoff)).fetchall()
        if not rows:
            return 0, Counter(), Counter()
        first, last = rows[0][0], rows[-1][0]
        connection.execute(_KEEP_HEAD)
        lost = Counter({row[0]: int(row[1]) for row in connection.execute(_PASSED_OVER, (last, last))})
        connection.execute(_MOVE_ON, (last, last))
        lost.update(row[0] for row in connection.execute(_LOST_RETRIES, (last,)).fetchall())
        lighter = log_shares.remove_stretch(connection, first, last, cutoff)
        return connection.execute(_REMOVE, (first, last, cutoff)).rowcount, lost, lighter

    removed, lost, lighter = await database.write(remove)
    skipped.update(lost)
    shares.subtract(lighter)
    return removed
