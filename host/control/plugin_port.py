"""The host as one plugin reaches it: every request is checked against the plugin's grants here."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

import msgspec
import structlog

from host.control.errors import PermissionRefusedError, PluginNotFoundError
from host.control.key_values import KeyValues
from host.control.services import Services
from host.errors import BusbarError
from host.observe.audit import Audit
from host.routing.bus import Bus
from host.routing.filters import Filter
from host.routing.guard import Guard
from plugin_sdk.context import MAX_HOPS
from plugin_sdk.errors import HostError, PermissionDeniedError
from plugin_sdk.events import Event
from plugin_sdk.manifest import Permissions
from plugin_sdk.strict_json import StrictJsonError, loads

T = TypeVar("T")

LONGEST_CALL: Final = 3600.0
"""Seconds that a plugin may wait for another's answer."""

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
    ) -> None:
        self._plugin = plugin
        self._call = granted.call
        self._services = services
        self._publish = Filter(granted.publish)
        self._bus = bus
        self._key_values = key_values
        self._guard = guard
        self._audit = audit
        self._audited: set[str] = set()

    async def emit(self, event: bytes) -> int:
        """Append an event of the plugin's."""
        parsed = Event.from_json(event)
        if not self._publish.takes_type(parsed.type):
            await self._refuse(
                f"publish: {parsed.type}",
                f"{self._plugin} may not publish '{parsed.type}': list it under permissions.publish in "
                "plugin.toml and have it granted",
            )
        if parsed.source != f"/plugins/{self._plugin}":
            await self._refuse(
                f"source: {parsed.source}", f"{self._plugin} publishes as '/plugins/{self._plugin}' only"
            )
        if parsed.hops > MAX_HOPS:
            raise HostError(f"an event that came through {parsed.hops} plugins goes no further", "too_many_hops")
        return (await _asked(self._bus.publish(parsed))).sequence

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
                f"{self._plugin} may not call '{service}': list it under permissions.call in plugin.toml and have "
                "it granted",
            )
        if self._services is None:
            raise PluginNotFoundError(plugin)
        try:
            found = loads(arguments)
        except StrictJsonError as error:
            raise HostError(f"the arguments of {service} are no strict JSON: {error}", "arguments_invalid") from None
        if not isinstance(found, dict):
            raise HostError(f"the arguments of {service} must be a JSON object, by name", "arguments_invalid")
        answer = self._services.call(
            plugin,
            method,
            found,
            chain=[*chain, self._plugin],
            timeout=min(max(0.001, timeout), LONGEST_CALL),  # in this order, what is no number is the least
            traceparent=traceparent,
        )
        return msgspec.json.encode(await _asked(answer))

    async def _refuse(self, permission: str, sentence: str) -> None:
        # Once for each permission: a plugin that tries in a loop must not fill the audit log.
        if permission not in self._audited and len(self._audited) < 1000:  # noqa: PLR2004 - a bound
            self._audited.add(permission)
            _log.warning("permission_denied", plugin=self._plugin, permission=permission)
            await self._audit.record(
                actor=f"plugin:{self._plugin}",
                action="permission.denied",
                target=self._plugin,
                detail={"permission": permission},
                outcome="refused",
            )
        raise PermissionDeniedError(sentence, PermissionRefusedError.code)


async def _asked(answer: Awaitable[T]) -> T:
    """Await something of the host's, turning its refusals into the plugin's errors."""
    try:
        return await answer
    except BusbarError as error:
        raise HostError(error.message, error.word) from None
