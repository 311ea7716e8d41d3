"""The host as one plugin reaches it: every request is checked against the plugin's grants here."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
import structlog

from host.errors import BusbarError, shortened
from host.observe.audit import Audit
from host.port.errors import PermissionRefusedError
from host.port.key_values import KeyValues
from host.port.services import Services
from host.registry.errors import PluginNotFoundError
from host.routing.bus import Bus
from host.routing.filters import Filter
from host.routing.guard import Guard
from plugin_sdk.context import MAX_HOPS
from plugin_sdk.errors import HostError, PermissionDeniedError
from plugin_sdk.events import Event
from plugin_sdk.manifest import Permissions
from plugin_sdk.resilience import TokenBucket
from plugin_sdk.strict_json import StrictJsonError, loads

T = TypeVar("T")

LONGEST_CALL: Final = 3600.0
"""Seconds that a plugin may wait for another's answer."""
MAX_REMEMBERED: Final = 1024
"""Refusals of which is remembered that they were written down, by a digest each: names may be long."""
MAX_HASHED: Final = 1024
"""Characters at each end of a refusal by which it is told from others."""
AUDITED_AT_ONCE: Final = 256
AUDITED_PER_SECOND: Final = 10 / 3600
"""Refusals of one plugin that the audit trail has: so many at once, and ten an hour in the long run. A plugin that
makes up names must not push everybody else's entries out of it."""

_log = structlog.get_logger(__name__)


class PluginPort:
    """Serves the `HostPort` of one plugin.

    Args:
        plugin: Whose requests these are.
        granted: What an administrator has allowed it.
        bus: Where its events go.
        key_values: Where its keys are.
        guard: Whose running deliveries it may extend.
        services: Calls other plugins; None where there are none.
        audit: Where refusals are written down.
        now: The time in seconds, for how many of them are.
    """

    def __init__(
        self,
        plugin: str,
        *,
        granted: Permissions,
        bus: Bus,
        key_values: KeyValues,
        guard: Guard,
        audit: Audit,
        services: Services | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plugin = plugin
        self._call = granted.call
        self._services = services
        self._publish = Filter(granted.publish)
        self._bus = bus
        self._key_values = key_values
        self._guard = guard
        self._audit = audit
        self._audited: OrderedDict[bytes, None] = OrderedDict()
        self._auditing = TokenBucket(AUDITED_PER_SECOND, AUDITED_AT_ONCE, now)
        self._unlisted = 0

    async def emit(self, event: bytes) -> int:
        """Append an event of the plugin's."""
        self._check_size(event)
        parsed = Event.from_json(event)
        if not self._publish.takes_type(parsed.type):
            await self._refuse(
                f"publish: {parsed.type}",
                f"{self._plugin} may not publish '{shortened(parsed.type)}': list it under permissions.publish in "
                "plugin.toml and have it granted",
            )
        if parsed.source != f"/plugins/{self._plugin}":
            await self._refuse(
                f"source: {parsed.source}", f"{self._plugin} publishes as '/plugins/{self._plugin}' only"
            )
        if parsed.hops > MAX_HOPS:
            raise HostError(f"an event that came through {parsed.hops} plugins goes no further", "too_many_hops")
        return (await _asked(self._bus.publish_for(self._plugin, parsed))).sequence

    async def kv_get(self, key: str) -> bytes | None:
        """The value under `key`."""
        return await _asked(self._key_values.get(self._plugin, key))

    async def kv_set(self, key: str, value: bytes) -> None:
        """Keep a value."""
        await _asked(self._key_values.set(self._plugin, key, value))

    async def kv_delete(self, key: str) -> bool:
        """Forget a key."""
        return await _asked(self._key_values.delete(self._plugin, key))

    async def kv_list(self, prefix: str, after: str, limit: int) -> list[str]:
        """Keys with a prefix."""
        return await _asked(self._key_values.keys(self._plugin, prefix, after, limit))

    async def extend(self, delivery_id: str) -> None:
        """Start the time limit of a running delivery anew."""
        try:
            self._guard.extend(delivery_id)
        except BusbarError as error:
            raise HostError(error.message, error.word) from None

    async def call(
        self,
        service: str,
        arguments: bytes,
        timeout: float,  # noqa: ASYNC109 - how long the plugin waits is part of what it asks
        chain: list[str],
        traceparent: str,
    ) -> bytes:
        """Call a service of another plugin; arguments and answer are JSON."""
        plugin, _, method = service.partition(".")
        if not {service, f"{plugin}.*"} & set(self._call):
            await self._refuse(
                f"call: {service}",
                f"{self._plugin} may not call '{shortened(service)}': list it under permissions.call in plugin.toml "
                "and have it granted",
            )
        if self._services is None:
            raise PluginNotFoundError(shortened(plugin))
        try:
            found = loads(arguments)
        except StrictJsonError as error:
            raise HostError(
                f"the arguments of {shortened(service)} are no strict JSON: {error}", "arguments_invalid"
            ) from None
        if not isinstance(found, dict):
            raise HostError(
                f"the arguments of {shortened(service)} must be a JSON object, by name", "arguments_invalid"
            )
        answer = self._services.call(
            plugin,
            method,
            found,
            chain=[*chain, self._plugin],
            timeout=min(max(0.001, timeout), LONGEST_CALL),  # in this order, what is no number is the least
            traceparent=traceparent,
        )
        return msgspec.json.encode(await _asked(answer))

    def _check_size(self, event: bytes) -> None:
        """Refuse what is too large before it is parsed: what JSON holds can take many times its bytes."""
        try:
            self._bus.check_size(len(event))
        except BusbarError as error:
            raise HostError(error.message, error.word) from None

    async def _refuse(self, permission: str, sentence: str) -> None:
        """Refuse a request, and write that down once for each permission."""
        # Of a name of megabytes its ends have to do: each byte that is hashed is time of the loop.
        told = f"{len(permission)} {permission[:MAX_HASHED]} {permission[-MAX_HASHED:]}"
        digest = hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in self._audited:
            self._audited.move_to_end(digest)
        elif self._auditing.take():
            self._audited[digest] = None
            while len(self._audited) > MAX_REMEMBERED:
                self._audited.popitem(last=False)
            unlisted, self._unlisted = self._unlisted, 0
            await self._write_down(shortened(permission), unlisted)
        else:
            self._unlisted += 1
        raise PermissionDeniedError(sentence, PermissionRefusedError.code)

    async def _write_down(self, permission: str, unlisted: int) -> None:
        """An entry in the trail; `unlisted` refusals before it have none."""
        detail: dict[str, Any] = {"permission": permission, **({"unlisted": unlisted} if unlisted else {})}
        _log.warning("permission_denied", plugin=self._plugin, **detail)
        await self._audit.record(
            actor=f"plugin:{self._plugin}",
            action="permission.denied",
            target=self._plugin,
            detail=detail,
            outcome="refused",
        )


async def _asked(answer: Awaitable[T]) -> T:
    """Await something of the host's, turning its refusals into the plugin's errors."""
    try:
        return await answer
    except BusbarError as error:
        raise HostError(error.message, error.word) from None
