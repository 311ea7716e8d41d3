"""The plugins' own durable keys and values: one table, a quota for each plugin."""

from __future__ import annotations

import sqlite3
from typing import Final

from host.port.errors import KeyValueRefusedError
from host.storage.database import Database
from plugin_sdk.context import MAX_KEY_BYTES, MAX_VALUE_BYTES

QUOTA_BYTES: Final = 64 * 2**20
"""Keys and values that one plugin may keep, in bytes."""
MAX_LIST: Final = 1000

_GET: Final = "SELECT value FROM kv WHERE plugin = ? AND key = ?"
_LIST: Final = (
    "SELECT key FROM kv WHERE plugin = ? AND key > ? AND key >= ? AND substr(key, 1, ?) = ? ORDER BY key LIMIT ?"
)
_SIZE: Final = "SELECT length(value) + length(CAST(key AS BLOB)) FROM kv WHERE plugin = ? AND key = ?"
_USAGE: Final = "SELECT bytes FROM kv_usage WHERE plugin = ?"
_PUT: Final = (
    "INSERT INTO kv (plugin, key, value) VALUES (?, ?, ?) "
    "ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value"
)
_DELETE: Final = "DELETE FROM kv WHERE plugin = ? AND key = ?"
_SET_USAGE: Final = (
    "INSERT INTO kv_usage (plugin, bytes) VALUES (?, ?) ON CONFLICT (plugin) DO UPDATE SET bytes = excluded.bytes"
)


class KeyValues:
    """Keys and values of every plugin; each method sees those of one."""

    def __init__(self, database: Database, *, quota: int = QUOTA_BYTES) -> None:
        self._database = database
        self._quota = quota

    async def get(self, plugin: str, key: str) -> bytes | None:
        """The value under `key`, or None."""
        rows = await self._database.read(_GET, (plugin, key))
        return bytes(rows[0][0]) if rows else None

    async def set(self, plugin: str, key: str, value: bytes) -> None:
        """Keep `value` under `key`; durable when it returns.

        Raises:
            KeyValueRefusedError: key or value is too large, or the plugin's quota is used up.
        """
        size = len(key.encode())
        if not 0 < size <= MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
            raise KeyValueRefusedError(
                f"a key has 1 to {MAX_KEY_BYTES} bytes and a value at most {MAX_VALUE_BYTES}",
                code="kv_too_large",
            )

        def put(connection: sqlite3.Connection) -> None:
            used = _number(connection, _USAGE, (plugin,))
            after = used - _number(connection, _SIZE, (plugin, key)) + len(value) + size
            if after > self._quota:
                raise KeyValueRefusedError(
                    f"{plugin} would keep {after} bytes of {self._quota}: delete keys it no longer needs"
                )
            connection.execute(_PUT, (plugin, key, value))
            connection.execute(_SET_USAGE, (plugin, after))

        await self._database.write(put, weight=len(value))

    async def delete(self, plugin: str, key: str) -> bool:
        """Forget `key`; whether there was one."""

        def drop(connection: sqlite3.Connection) -> bool:
            size = _number(connection, _SIZE, (plugin, key))
            if not size:
                return False
            connection.execute(_DELETE, (plugin, key))
            connection.execute(_SET_USAGE, (plugin, _number(connection, _USAGE, (plugin,)) - size))
            return True

        return await self._database.write(drop)

    async def keys(self, plugin: str, prefix: str, after: str, limit: int) -> list[str]:
        """At most `limit` (and 1000) keys that start with `prefix`, in order, each above `after`."""
        bounded = max(0, min(limit, MAX_LIST))
        rows = await self._database.read(_LIST, (plugin, after, prefix, len(prefix), prefix, bounded))
        return [row[0] for row in rows]

    async def purge(self, plugin: str) -> None:
        """Forget every key of a plugin."""

        def forget(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM kv WHERE plugin = ?", (plugin,))
            connection.execute("DELETE FROM kv_usage WHERE plugin = ?", (plugin,))

        await self._database.write(forget)


def _number(connection: sqlite3.Connection, sql: str, parameters: tuple[str, ...]) -> int:
    row = connection.execute(sql, parameters).fetchone()
    return 0 if row is None else int(row[0])
