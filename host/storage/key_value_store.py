"""The keys and values of all plugins, in a database file and a thread of their own.

Apart from the event log: a plugin that writes keys without end must not be in the transactions that events wait for.
Among themselves plugins share the writing (`fair_groups.py`), and reading waits for nobody's writing at all.

Nothing is in one transaction with what `busbar.db` holds. Whoever writes to both does so in an order of which each
step can be taken again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from host.storage.database import Database
from host.storage.errors import QuotaUsedUpError, StorageBusyError, StorageFailedError
from host.storage.fair_groups import FairGroups
from plugin_sdk.clock import Clock

QUOTA_BYTES: Final = 64 * 2**20
"""Keys and values that one plugin may keep, in bytes."""
PURGED_KEYS: Final = 1000
PURGED_BYTES: Final = 2**20
"""Keys, and bytes of them, that a purge removes in one step; others write between two steps."""
TAKEN_BYTES: Final = 4 * 2**20
"""Bytes that are moved in one step from where keys and values were kept before."""
TAKEN_KEYS: Final = 256

_MIGRATIONS: Final = "key_value_migrations"
_LAST_CHARACTER: Final = "\U0010ffff"
_BEFORE_SURROGATES, _AFTER_SURROGATES = "\ud7ff", "\ue000"

_GET: Final = "SELECT value FROM kv WHERE plugin = ? AND key = ?"
_LIST: Final = "SELECT key FROM kv WHERE plugin = ? AND key > ? AND key >= ? ORDER BY key LIMIT ?"
_LIST_BELOW: Final = "SELECT key FROM kv WHERE plugin = ? AND key > ? AND key >= ? AND key < ? ORDER BY key LIMIT ?"
_SIZE: Final = "SELECT length(value) + length(CAST(key AS BLOB)) FROM kv WHERE plugin = ? AND key = ?"
_SIZES: Final = "SELECT key, length(value) + length(CAST(key AS BLOB)) FROM kv WHERE plugin = ? ORDER BY key LIMIT ?"
_USAGE: Final = "SELECT bytes FROM kv_usage WHERE plugin = ?"
_PUT: Final = (
    "INSERT INTO kv (plugin, key, value) VALUES (?, ?, ?) "
    "ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value"
)
_DELETE: Final = "DELETE FROM kv WHERE plugin = ? AND key = ?"
_DELETE_TO: Final = "DELETE FROM kv WHERE plugin = ? AND key <= ?"
_SET_USAGE: Final = (
    "INSERT INTO kv_usage (plugin, bytes) VALUES (?, ?) ON CONFLICT (plugin) DO UPDATE SET bytes = excluded.bytes"
)
_FORGET_USAGE: Final = "DELETE FROM kv_usage WHERE plugin = ?"
_COUNT_USAGE: Final = (
    "INSERT OR REPLACE INTO kv_usage (plugin, bytes) "
    "SELECT plugin, sum(length(value) + length(CAST(key AS BLOB))) FROM kv GROUP BY plugin"
)
_STARTS: Final = "SELECT number FROM starts"
_SET_STARTS: Final = "UPDATE starts SET number = ?"
_OLD_PAGE: Final = "SELECT plugin, key, value FROM kv WHERE (plugin, key) > (?, ?) ORDER BY plugin, key LIMIT ?"
_OLD_TABLES: Final = ("DELETE FROM kv", "DELETE FROM kv_usage")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Put:
    plugin: str
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class _Delete:
    plugin: str
    key: str


@dataclass(frozen=True, slots=True)
class _Purge:
    plugin: str


_Change: TypeAlias = _Put | _Delete | _Purge
_Answer: TypeAlias = bool | QuotaUsedUpError | None
_Asked: TypeAlias = "tuple[_Change, int, asyncio.Future[_Answer]]"
"""A change, its weight, and who waits for it."""


class KeyValueStore:
    """Keys and values of every plugin; each method sees those of one. Make it with `open`.

    Errors of all that writes are those of `FairGroups.put` and `Writer.run`, of all that reads those of
    `Database.read`.
    """

    def __init__(self, database: Database, quota: int) -> None:
        self._database = database
        self._quota = quota
        self._group: list[_Asked] = []
        self._groups: FairGroups[_Change] = FairGroups(self._submit)

    @classmethod
    async def open(cls, path: Path, *, quota: int = QUOTA_BYTES, clock: Clock | None = None) -> KeyValueStore:
        """Open or create the file; `quota` is in bytes, for each plugin. Errors as `Database.open`."""
        return cls(await Database.open(path, clock=clock, migrations=_MIGRATIONS, logged=False), quota)

    async def lives(self) -> None:
        """Return when its writer was closed; errors as of `Writer.lives`."""
        await self._database.writer.lives()

    async def close(self) -> None:
        """Write what waits and close the file; closing again does nothing."""
        await self._groups.close()
        await self._database.close()

    async def get(self, plugin: str, key: str) -> bytes | None:
        """The value under `key`, or None."""
        rows = await self._database.read(_GET, (plugin, key))
        return bytes(rows[0][0]) if rows else None

    async def keys(self, plugin: str, prefix: str, after: str, limit: int) -> list[str]:
        """At most `limit` keys that start with `prefix`, in order, each above `after`."""
        above = _above(prefix)
        if above is None:
            rows = await self._database.read(_LIST, (plugin, after, prefix, limit))
        else:
            rows = await self._database.read(_LIST_BELOW, (plugin, after, prefix, above, limit))
        return [row[0] for row in rows]

    async def set(self, plugin: str, key: str, value: bytes) -> None:
        """Keep `value` under `key`; durable when it returns.

        Raises:
            QuotaUsedUpError: with it the plugin would keep more than its quota.
        """
        await self._groups.put(plugin, _Put(plugin, key, value), weight=len(value))

    async def delete(self, plugin: str, key: str) -> bool:
        """Forget `key`; whether there was one."""
        return bool(await self._groups.put(plugin, _Delete(plugin, key)))

    async def purge(self, plugin: str) -> None:
        """Forget every key of a plugin, some at a time; a purge that was cut short is taken up by the next."""
        while await self._groups.put(plugin, _Purge(plugin), owed=True):
            pass

    async def starts(self) -> int:
        """How often the host was started on this file, by the file's own count."""
        return int((await self._database.read(_STARTS))[0][0])

    async def count_start(self, starts: int) -> None:
        """Note that this is the start of that number."""
        await self._database.write(lambda connection: connection.execute(_SET_STARTS, (starts,)).rowcount)

    async def take_over(self, old: Database) -> None:
        """Move here what `busbar.db` held before there was this file; call it before anybody reads or writes.

        They are deleted there once all of them are durable here, so a move that was cut short is begun anew.
        """
        moved, plugin, key = 0, "", ""
        while rows := await old.read(_OLD_PAGE, (plugin, key, TAKEN_KEYS)):
            step, weight = [], 0
            for row in rows:
                step.append((str(row[0]), str(row[1]), bytes(row[2])))
                weight += len(step[-1][2])
                if weight > TAKEN_BYTES:
                    break
            await self._database.write(_taking(step), weight=weight)
            moved, (plugin, key, _) = moved + len(step), step[-1]
        if not moved:
            return
        await self._database.write(lambda connection: connection.execute(_COUNT_USAGE).rowcount)
        await old.write(_forget_old)
        _log.info("key_values_moved", keys=moved, file=self._database.path.name)

    # -- groups

    def _submit(self, change: _Change, weight: int) -> asyncio.Future[_Answer]:
        """Have a change written together with all that come in this turn of the loop."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Answer] = loop.create_future()
        self._group.append((change, weight, answer))
        if len(self._group) == 1:
            loop.call_soon(self._write_group)
        return answer

    def _write_group(self) -> None:
        group, self._group = self._group, []
        self._write(group)

    def _write(self, group: list[_Asked]) -> None:
        changes = [change for change, _, _ in group]
        weight = sum(weight for _, weight, _ in group)
        try:
            written = self._database.writer.submit(lambda connection: self._apply(connection, changes), weight=weight)
        except (StorageBusyError, StorageFailedError) as error:
            for _, _, answer in group:
                answer.set_exception(error)
        else:
            written.add_done_callback(partial(self._written, group))

    def _written(self, group: list[_Asked], written: asyncio.Future[list[_Answer]]) -> None:
        error = written.exception()
        if error is None:
            for (_, _, answer), found in zip(group, written.result(), strict=True):
                if isinstance(found, Exception):
                    answer.set_exception(found)
                else:
                    answer.set_result(found)
        elif len(group) == 1 or isinstance(error, StorageFailedError):
            for _, _, answer in group:
                answer.set_exception(error)
        else:
            # One of them is refused for its own sake, and costs the others nothing.
            for one in group:
                self._write([one])

    # -- in the writer's thread

    def _apply(self, connection: sqlite3.Connection, changes: list[_Change]) -> list[_Answer]:
        """Make these changes; what a plugin keeps is read and written once for all of its own."""
        used = {plugin: _number(connection, _USAGE, (plugin,)) for plugin in {change.plugin for change in changes}}
        before = dict(used)
        answers = [self._make(connection, change, used) for change in changes]
        for plugin, after in used.items():
            if not after:
                connection.execute(_FORGET_USAGE, (plugin,))
            elif after != before[plugin]:
                connection.execute(_SET_USAGE, (plugin, after))
        return answers

    def _make(self, connection: sqlite3.Connection, change: _Change, used: dict[str, int]) -> _Answer:
        plugin = change.plugin
        if isinstance(change, _Purge):
            return _purge_some(connection, plugin, used)
        size = _number(connection, _SIZE, (plugin, change.key))
        if isinstance(change, _Delete):
            if size:
                connection.execute(_DELETE, (plugin, change.key))
                used[plugin] -= size
            return bool(size)
        after = used[plugin] - size + len(change.key.encode()) + len(change.value)
        if after > self._quota:
            return QuotaUsedUpError(plugin, after, self._quota)
        connection.execute(_PUT, (plugin, change.key, change.value))
        used[plugin] = after
        return None


def _purge_some(connection: sqlite3.Connection, plugin: str, used: dict[str, int]) -> bool:
    """Forget some keys of a plugin; whether there may be more."""
    last, weight = None, 0
    for key, size in connection.execute(_SIZES, (plugin, PURGED_KEYS)):
        last, weight = key, weight + size
        if weight > PURGED_BYTES:
            break
    if last is None:
        used[plugin] = 0
        return False
    connection.execute(_DELETE_TO, (plugin, last))
    used[plugin] -= weight
    return True


def _above(prefix: str) -> str | None:
    """The least text above all that start with `prefix`, or None where there is none: SQLite orders by code points."""
    kept = prefix.rstrip(_LAST_CHARACTER)
    if not kept:
        return None
    last = _AFTER_SURROGATES if kept[-1] == _BEFORE_SURROGATES else chr(ord(kept[-1]) + 1)
    return kept[:-1] + last


def _taking(rows: Sequence[tuple[str, str, bytes]]) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: connection.executemany(_PUT, rows).rowcount


def _forget_old(connection: sqlite3.Connection) -> None:
    for sql in _OLD_TABLES:
        connection.execute(sql)


def _number(connection: sqlite3.Connection, sql: str, parameters: tuple[str, ...]) -> int:
    row = connection.execute(sql, parameters).fetchone()
    return 0 if row is None else int(row[0])
