"""What a plugin may ask of its host, and nothing else: emit, kv, config, secrets, log, still_working.

A `Context` is handed to every hook. It asks through a `HostPort`: in the host's process that is the host
itself, in a worker it is the socket. Both check the plugin's grants on the host's side.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from plugin_sdk.calls import Delivery, Firing, Health, Request, Response, ServiceCall
from plugin_sdk.egress import http_session
from plugin_sdk.errors import DeadLetter, HostError
from plugin_sdk.events import Event, new_event
from plugin_sdk.strict_json import StrictJsonError, dumps

if TYPE_CHECKING:
    import aiohttp

__all__ = [
    "Context",
    "Delivery",
    "Firing",
    "Health",
    "HostPort",
    "KeyValueStore",
    "Request",
    "Response",
    "Secrets",
    "Session",
]

MAX_KEY_BYTES: Final = 256
MAX_VALUE_BYTES: Final = 256 * 1024
MAX_HOPS: Final = 16
"""Plugins that one event, and what was emitted because of it, may come through."""


class HostPort(Protocol):
    """The host as a plugin reaches it. Every method raises `HostError` where the host refuses."""

    async def emit(self, event: bytes) -> int:
        """Append an event (CloudEvents JSON) to the log; answers its sequence once it is durable."""
        ...

    async def kv_get(self, key: str) -> bytes | None:
        """The JSON bytes kept under `key`, or None."""
        ...

    async def kv_set(self, key: str, value: bytes) -> None:
        """Keep JSON bytes under `key`, durably."""
        ...

    async def kv_delete(self, key: str) -> bool:
        """Forget `key`; whether there was one."""
        ...

    async def kv_list(self, prefix: str, after: str, limit: int) -> list[str]:
        """At most `limit` keys that start with `prefix`, in order, each above `after`."""
        ...

    async def extend(self, delivery_id: str) -> None:
        """Start the time limit of a running delivery anew."""
        ...

    async def call(
        self,
        service: str,
        arguments: bytes,
        timeout: float,  # noqa: ASYNC109 - the host keeps it, so that it holds for a plugin that hangs too
        chain: list[str],
        traceparent: str,
    ) -> bytes:
        """Call a service (`plugin.method`) of another plugin; arguments and answer are JSON.

        `chain` has the plugins that the call in which this is asked came through.
        """
        ...


class KeyValueStore:
    """The plugin's own durable keys and JSON values; no other plugin can see them."""

    def __init__(self, host: HostPort) -> None:
        self._host = host

    async def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`, or `default`."""
        found = await self._host.kv_get(_checked_key(key))
        return default if found is None else msgspec.json.decode(found)

    async def set(self, key: str, value: Any) -> None:
        """Keep a JSON value under `key`; durable when it returns.

        Raises:
            HostError: the key is over 256 bytes, the value over 256 KiB or no JSON value (NaN is none), or the plugin's
                quota is used up.
        """
        try:
            encoded = dumps(value)
        except StrictJsonError as error:
            raise HostError(f"a kv value is a JSON value: {error}", "kv_value_invalid") from None
        if len(encoded) > MAX_VALUE_BYTES:
            raise HostError(
                f"a kv value has at most {MAX_VALUE_BYTES} bytes as JSON, not {len(encoded)}: split it",
                "kv_value_too_large",
            )
        await self._host.kv_set(_checked_key(key), encoded)

    async def delete(self, key: str) -> bool:
        """Forget `key`; whether there was one."""
        return await self._host.kv_delete(_checked_key(key))

    async def keys(self, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[str]:
        """At most `limit` (up to 1000) keys that start with `prefix`, in order, each above `after`."""
        return await self._host.kv_list(prefix, after, limit)


class Secrets:
    """The secrets that the manifest asks for and an administrator has set; they never show in a repr."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> str:
        """The secret `name`.

        Raises:
            HostError: nobody has set it, or the manifest does not list it.
        """
        try:
            return self._values[name]
        except KeyError:
            raise HostError(
                f"secret '{name}' is not set: list it in plugin.toml and set it with the plugin's config",
                "secret_not_set",
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __repr__(self) -> str:
        return f"Secrets({sorted(self._values)})"


class Session:
    """What stays the same between two starts of a plugin: who it is, its config, secrets and ways out."""

    def __init__(
        self,
        *,
        plugin: str,
        host: HostPort,
        config: Any = None,
        secrets: Mapping[str, str] | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self.plugin = plugin
        self.host = host
        self.config = config
        self.secrets = Secrets(secrets or {})
        self.kv = KeyValueStore(host)
        self.log = log or logging.getLogger(f"busbar.plugin.{plugin}")
        self._http: aiohttp.ClientSession | None = None

    @property
    def http(self) -> aiohttp.ClientSession:
        """The plugin's HTTP client, made when it is first asked for."""
        if self._http is None or self._http.closed:
            self._http = http_session()
        return self._http

    async def close(self) -> None:
        """End what is open."""
        if self._http is not None:
            await self._http.close()

    def reconfigure(self, config: Any, secrets: Mapping[str, str]) -> None:
        """Take new config and secrets; hooks that run on see them at their next look."""
        self.config = config
        self.secrets = Secrets(secrets)


class Context:
    """What one hook call may use.

    `delivery` is the delivery being handled, `service_call` the call being served; None outside of one.
    """

    __slots__ = ("_expires", "_session", "delivery", "service_call")

    def __init__(self, session: Session, delivery: Delivery | None = None, call: ServiceCall | None = None) -> None:
        self._session = session
        self.delivery = delivery
        self.service_call = call
        self._expires = monotonic() + call.seconds if call is not None and call.seconds else None

    @property
    def plugin(self) -> str:
        """The plugin's own id."""
        return self._session.plugin

    @property
    def config(self) -> Any:
        """The plugin's config: an instance of its config model, or a dict where it has none."""
        return self._session.config

    @property
    def secrets(self) -> Secrets:
        """The plugin's secrets, by name."""
        return self._session.secrets

    @property
    def kv(self) -> KeyValueStore:
        """The plugin's own durable keys and values."""
        return self._session.kv

    @property
    def http(self) -> aiohttp.ClientSession:
        """An HTTP client for what `permissions.network` grants; one session for all hooks, closed with the plugin.

        What is not granted raises `PermissionDeniedError`. Other libraries find the same way out in `HTTPS_PROXY`.
        """
        return self._session.http

    @property
    def log(self) -> logging.Logger:
        """The plugin's logger; its lines carry the plugin's id and the delivery."""
        return self._session.log

    async def emit(
        self,
        type: str,  # noqa: A002 - the attribute's name in the specification
        *,
        subject: str | None = None,
        data: Any = msgspec.UNSET,
        id: str | None = None,  # noqa: A002 - the attribute's name in the specification
        time: datetime | None = None,
        extensions: dict[str, str | int | bool] | None = None,
    ) -> Event:
        """Publish an event; it is durable when this returns.

        `source` is the plugin itself. Two emits with one `id` and the same content are one event, so an
        `id` made from the delivery's makes a repeated delivery harmless. The trace of the delivery travels on, and so
        do its `correlationid`, its event's id as `causationid`, and the count of plugins it came through as `hops`.

        Raises:
            DeadLetter: the delivered event has come through `MAX_HOPS` plugins: something feeds itself.
            InvalidEventError: an attribute is malformed.
            PermissionDeniedError: `type` is not among the plugin's granted `publish` patterns.
            HostError: the host cannot take it now; the sentence says why.
        """
        extras = dict(extensions or {})
        if self.delivery is not None:
            extras |= _lineage(self.delivery, extras)
        event = new_event(
            type,
            source=f"/plugins/{self.plugin}",
            subject=subject,
            data=data,
            id=id,
            time=time,
            extensions=extras,
        )
        await self._session.host.emit(event.to_json())
        return event

    async def call(
        self,
        service: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: float = 10.0,  # noqa: ASYNC109 - the host keeps it, and takes it from what is left of a call served
        **named: Any,
    ) -> Any:
        """Call a service of another plugin, `plugin.method`, and wait for its answer, a JSON value.

        Arguments are given by name, as keywords or as a mapping. A call made while serving one waits no longer than
        its own caller does.

        Raises:
            PermissionDeniedError: the service is not among the plugin's granted `call` permissions.
            HostError: `arguments_invalid`, where they are no JSON values; `plugin_not_found`, `method_not_found`,
                `plugin_not_running`; `breaker_open` or `bulkhead_full`, where the callee's guard refuses;
                `hook_timeout`; `call_cycle`, where the callee waits for this call itself; `plugin_call_failed`, or a
                code of the callee's own, where it raised; `plugin_answer_invalid`, where it returned no JSON value.
        """
        served = self.service_call
        if self._expires is not None:
            timeout = min(timeout, self._expires - monotonic())
        trace = self.delivery.traceparent if self.delivery else served.traceparent if served else ""
        chain = list(served.chain) if served else []
        try:
            encoded = dumps({**(arguments or {}), **named})
        except StrictJsonError as error:
            raise HostError(f"the arguments of {service} are JSON values: {error}", "arguments_invalid") from None
        return msgspec.json.decode(await self._session.host.call(service, encoded, timeout, chain, trace))

    async def still_working(self) -> None:
        """Start the time limit of this delivery anew: for work that rightly takes longer than its timeout.

        Raises:
            HostError: there is no delivery, or its time was already up.
        """
        if self.delivery is None:
            raise HostError("still_working() extends a delivery, and this hook is not one", "no_delivery")
        await self._session.host.extend(self.delivery.id)


def _lineage(delivery: Delivery, given: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    """The extensions that tie an emitted event to the one that was delivered."""
    hops = delivery.hops + 1
    if hops > MAX_HOPS:
        raise DeadLetter(
            f"this event has come through {MAX_HOPS} plugins: some of them feed each other, or one feeds itself; "
            "look at the events of its correlationid"
        )
    found: dict[str, str | int | bool] = {"hops": hops}
    if delivery.event:
        found["causationid"] = delivery.event
        found["correlationid"] = given.get("correlationid", delivery.correlation or delivery.event)
    if delivery.traceparent and "traceparent" not in given:
        found["traceparent"] = delivery.traceparent
    return found


def _checked_key(key: str) -> str:
    if not key or len(key.encode()) > MAX_KEY_BYTES:
        raise HostError(f"a kv key has 1 to {MAX_KEY_BYTES} bytes", "kv_key_invalid")
    return key


def joined(names: Iterable[str]) -> str:
    """Names as a readable list: `'a', 'b'`."""
    return ", ".join(f"'{name}'" for name in names)
