"""The plugins' own durable keys and values, within the bounds that a plugin is told of."""

from __future__ import annotations

from typing import Final

from host.port.errors import KeyValueRefusedError
from host.storage.errors import QuotaUsedUpError
from host.storage.key_value_store import KeyValueStore
from plugin_sdk.context import MAX_KEY_BYTES, MAX_VALUE_BYTES

MAX_LIST: Final = 1000


class KeyValues:
    """Keys and values of every plugin; each method sees those of one."""

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store

    async def get(self, plugin: str, key: str) -> bytes | None:
        """The value under `key`, or None."""
        return await self._store.get(plugin, key)

    async def set(self, plugin: str, key: str, value: bytes) -> None:
        """Keep `value` under `key`; durable when it returns.

        Raises:
            KeyValueRefusedError: key or value is too large, or the plugin's quota is used up.
            StorageBusyError: too much of this plugin's waits to be written.
        """
        if not 0 < len(key.encode()) <= MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
            raise KeyValueRefusedError(
                f"a key has 1 to {MAX_KEY_BYTES} bytes and a value at most {MAX_VALUE_BYTES}",
                code="kv_too_large",
            )
        try:
            await self._store.set(plugin, key, value)
        except QuotaUsedUpError as error:
            raise KeyValueRefusedError(error.message) from None

    async def delete(self, plugin: str, key: str) -> bool:
        """Forget `key`; whether there was one."""
        return await self._store.delete(plugin, key)

    async def keys(self, plugin: str, prefix: str, after: str, limit: int) -> list[str]:
        """At most `limit` (and 1000) keys that start with `prefix`, in order, each above `after`."""
        return await self._store.keys(plugin, prefix, after, max(0, min(limit, MAX_LIST)))

    async def purge(self, plugin: str) -> None:
        """Forget every key of a plugin; durable when it returns, and safe to do again."""
        await self._store.purge(plugin)
