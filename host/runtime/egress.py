"""The egress broker: the one way from a plugin to the network, an HTTP proxy behind a door in its namespace.

Whoever connects through a plugin's door is that plugin: the socket was made in its network namespace. The broker
resolves names itself, connects to what is granted and to nothing else, and counts what goes through. It speaks
`CONNECT` (RFC 9110, section 9.3.6) and, for plain `http`, requests in absolute form (RFC 9112, section 3.2.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import structlog

from host.runtime.destinations import Destinations, reachable
from plugin_sdk.egress import CODE_HEADER
from plugin_sdk.resilience import TokenBucket

MAX_HEAD: Final = 8 * 1024
MAX_CONNECTIONS: Final = 32
HEAD_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 300.0
CHUNK: Final = 64 * 1024
REFUSALS_LOGGED: Final = 5.0
"""Refusals that are logged in a second; all are counted."""

_log = structlog.get_logger(__name__)

_HEAD: Final = re.compile(rb"([A-Z]{3,16}) ([\x21-\x7e]{1,2048}) HTTP/1\.[01]\r\n((?:[^\r\n\0]+\r\n)*)\r\n")
_AUTHORITY: Final = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(\d{1,5})")
_OWN_HEADERS: Final = (b"proxy-", b"connection:", b"keep-alive:")

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class _RefusedError(Exception):
    """A request that is answered with a status, a code and a sentence."""

    def __init__(self, status: str, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code


@dataclass(slots=True)
class EgressCounts:
    """What went through one plugin's door: connections, bytes, and refusals by code."""

    connections: int = 0
    open: int = 0
    sent: int = 0
    received: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Head:
    """The head of a request to the broker; `rest` is what goes on to the other side, where it is no tunnel."""

    host: str
    port: int
    rest: bytes


class EgressBroker:
    """Serves the doors of all plugins. One for a host.

    Args:
        resolve: The addresses of a name; the machine's own resolver where none is given.
    """

    def __init__(self, resolve: Resolve | None = None) -> None:
        self._resolve = resolve or _resolve
        self._counts: dict[str, EgressCounts] = {}

    def open(self, plugin: str, granted: tuple[str, ...], listener: socket.socket) -> Door:
        """Serve a plugin's door until it is closed; what it counts goes on where the last one ended."""
        counts = self._counts.setdefault(plugin, EgressCounts())
        return Door(plugin, Destinations(granted), listener, counts, self._resolve)

    def counts(self, plugin: str) -> EgressCounts | None:
        """What has gone through a plugin's door since the host started."""
        return self._counts.get(plugin)


class Door:
    """One plugin's way out."""

    def __init__(
        self, plugin: str, granted: Destinations, listener: socket.socket, counts: EgressCounts, resolve: Resolve
    ) -> None:
        self._plugin = plugin
        self._granted = granted
        self._counts = counts
        self._resolve = resolve
        self._logged = TokenBucket(REFUSALS_LOGGED, REFUSALS_LOGGED, time.monotonic)
        self._task = asyncio.get_running_loop().create_task(self._serve(listener), name=f"door of {plugin}")

    def close(self) -> None:
        """End every connection, and take no more."""
        self._task.cancel()

    async def _serve(self, listener: socket.socket) -> None:
        listener.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        loop = asyncio.get_running_loop()
        with listener:
            async with asyncio.TaskGroup() as group:
                while True:
                    try:
                        connection, _ = await loop.sock_accept(listener)
                    except OSError as error:  # out of descriptors: the others' connections end in time
                        _log.warning("egress_not_accepted", plugin=self._plugin, error=str(error))
                        await asyncio.sleep(1)
                        continue
                    group.create_task(self._connection(connection))

    async def _connection(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_HEAD)
        counts = self._counts
        counts.open += 1
        try:
            if counts.open > MAX_CONNECTIONS:
                raise _RefusedError(
                    "503 Service Unavailable",
                    "too_many_connections",
                    f"{self._plugin} has {MAX_CONNECTIONS} connections open: close one, or try again later",
                )
            await self._pass(reader, writer)
        except _RefusedError as refused:
            await self._refuse(writer, refused)
        except (OSError, TimeoutError) as error:
            _log.debug("egress_broken_off", plugin=self._plugin, error=str(error))
        finally:
            counts.open -= 1
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        head = await _read_head(reader)
        addresses = await self._allowed(head)
        far_reader, far_writer = await self._connect(head, addresses)
        counts = self._counts
        counts.connections += 1
        sent, received = counts.sent, counts.received
        try:
            if head.rest:
                counts.sent += len(head.rest)
                far_writer.write(head.rest)
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, far_writer, outward=True))
                group.create_task(self._copy(far_reader, writer, outward=False))
        except* (OSError, TimeoutError):
            pass  # one side broke off, or nothing came for too long: the other is closed, too
        finally:
            far_writer.close()
            _log.debug(
                "egress_connection",
                plugin=self._plugin,
                host=head.host,
                port=head.port,
                sent=counts.sent - sent,
                received=counts.received - received,
                seconds=round(time.monotonic() - began, 3),
            )

    async def _allowed(self, head: _Head) -> Sequence[str]:
        """The addresses that may be connected to for this request."""
        target = f"{head.host}:{head.port}"
        if not self._granted.holds(head.host, head.port):
            raise _RefusedError(
                "403 Forbidden",
                "network_not_granted",
                f"{self._plugin} may not connect to {target}: list it under permissions.network in plugin.toml and "
                "have it granted",
            )
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                addresses = await self._resolve(head.host.strip("[]"), head.port)
        except (OSError, TimeoutError) as error:
            raise _RefusedError(
                "502 Bad Gateway", "name_not_resolved", f"{head.host} has no address: {error or 'no answer'}"
            ) from None
        allowed = [address for address in addresses if reachable(address, head.host)]
        if not allowed:
            raise _RefusedError(
                "403 Forbidden",
                "address_refused",
                f"{head.host} is at {', '.join(addresses) or 'no address'}, which is no public address: to reach it, "
                f"have the address itself granted",
            )
        return allowed

    async def _connect(
        self, head: _Head, addresses: Sequence[str]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reason = "no answer in time"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_SECONDS):
                for address in addresses:
                    try:
                        return await asyncio.open_connection(address, head.port, limit=CHUNK)
                    except OSError as error:
                        reason = error.strerror or str(error)
        raise _RefusedError("502 Bad Gateway", "connect_failed", f"{head.host}:{head.port} is not reached: {reason}")

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, outward: bool) -> None:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                data = await reader.read(CHUNK)
                if not data:
                    break
                writer.write(data)
                await writer.drain()
            if outward:
                self._counts.sent += len(data)
            else:
                self._counts.received += len(data)
        if writer.can_write_eof():
            writer.write_eof()

    async def _refuse(self, writer: asyncio.StreamWriter, refused: _RefusedError) -> None:
        self._counts.refused[refused.code] += 1
        if self._logged.take():
            _log.warning("egress_refused", plugin=self._plugin, code=refused.code, reason=str(refused))
        body = f"{refused}\n".encode()
        head = (
            f"HTTP/1.1 {refused.status}\r\n{CODE_HEADER}: {refused.code}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(head.encode() + body)
            async with asyncio.timeout(HEAD_SECONDS):
                await writer.drain()


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    """The head of the one request that a connection carries."""
    malformed = _RefusedError("400 Bad Request", "malformed", "this is a proxy: ask it by CONNECT host:port")
    try:
        async with asyncio.timeout(HEAD_SECONDS):
            raw = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise malformed from None
    match = _HEAD.fullmatch(raw)
    if match is None:
        raise malformed
    method, target, headers = match[1], match[2].decode("ascii"), match[3]
    if method == b"CONNECT":
        authority, rest = target, b""
    else:
        authority, rest = _absolute(method, target, headers)
    named = _AUTHORITY.fullmatch(authority)
    if named is None or not 0 < int(named[2]) < 2**16:
        raise malformed
    return _Head(named[1], int(named[2]), rest)


def _absolute(method: bytes, target: str, headers: bytes) -> tuple[str, bytes]:
    """Where a plain `http` request goes, and its head as that side expects it. One request, then the end."""
    try:
        url = urlsplit(target)
        port = url.port or 80
    except ValueError:
        raise _RefusedError("400 Bad Request", "malformed", "the target is no URL") from None
    if url.scheme != "http" or not url.hostname or url.username is not None:
        raise _RefusedError("400 Bad Request", "malformed", "write http://host/path, or use CONNECT for https")
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    kept = [line for line in headers.splitlines() if not line.lower().startswith((*_OWN_HEADERS, b"host:"))]
    named = host if port == 80 else f"{host}:{port}"  # noqa: PLR2004 - the port that a URL without one means
    lines = [method + b" " + path.encode() + b" HTTP/1.1", f"Host: {named}".encode(), *kept, b"Connection: close"]
    return f"{host}:{port}", b"\r\n".join(lines) + b"\r\n\r\n"


async def _resolve(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
