"""The egress broker: the one way from a plugin to the network, an HTTP proxy behind a door in its namespace.

Whoever connects through a plugin's door is that plugin: the socket was made in its network namespace. The broker
resolves names itself, connects to what is granted and to nothing else, and counts what goes through.

Every plugin has an allowance of its own, and at each bound it alone waits or is refused. What goes wrong in serving a
connection, whatever it is, ends that connection and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from host.resolver import Resolver
from host.runtime.destinations import Destinations, reachable
from host.runtime.proxy_request import MAX_HEAD, ProxyRequest, RefusedError, malformed, read_request
from plugin_sdk.egress import CODE_HEADER
from plugin_sdk.resilience import TokenBucket

MAX_CONNECTIONS: Final = 32
"""Connections of a plugin that are served at once. Each holds two descriptors and, if a peer reads slowly, up to a
megabyte: what the loop reads at once (256 KiB) and twice `CHUNK`, in each direction."""
MAX_TURNED_AWAY: Final = 16
"""Connections beyond these that are told so at once; any more are closed without a word."""
MAX_LOOKUPS: Final = 8
"""Names of a plugin that are looked up at once: others wait, and only for its own."""
ACCEPTS: Final = 200.0
"""Connections of a plugin that are taken in a second; others wait in the kernel, so a flood costs its own plugin."""
ACCEPTS_AT_ONCE: Final = 512
HEAD_SECONDS: Final = 10.0
"""How long a request's head may take in all, however it drips in; `MAX_HEAD` bounds its bytes."""
RESOLVE_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 300.0
"""How long one direction of a connection may be silent, or leave unread what was sent."""
LINGER_SECONDS: Final = 1.0
"""How long what a refused peer still sends is thrown away, so that it can read why."""
CLOSE_SECONDS: Final = 5.0
"""How long a peer has for taking what was sent to it last."""
ACCEPT_PAUSE: Final = 1.0
"""How long a door waits where the host has no descriptor for the next connection."""
CHUNK: Final = 64 * 1024
REFUSALS_LOGGED: Final = 5.0
"""Refusals and failures of a plugin that are logged in a second; all are counted."""

_log = structlog.get_logger(__name__)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(slots=True)
class EgressCounts:
    """What went through one plugin's door: connections, bytes, and refusals by code."""

    connections: int = 0
    open: int = 0
    sent: int = 0
    received: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class _Allowance:
    """What one plugin may do at once, through all of its doors: there are two while a new worker takes over."""

    def __init__(self) -> None:
        self.counts = EgressCounts()
        self.turned_away = 0
        self.lookups = asyncio.Semaphore(MAX_LOOKUPS)
        self.accepts = TokenBucket(ACCEPTS, ACCEPTS_AT_ONCE, time.monotonic)
        self.logged = TokenBucket(REFUSALS_LOGGED, REFUSALS_LOGGED, time.monotonic)
        self.turn = asyncio.Lock()


class EgressBroker:
    """Serves the doors of all plugins. One for a host.

    Args:
        resolve: The addresses of a name; of the machine's own name servers where none is given.
    """

    def __init__(self, resolve: Resolve | None = None) -> None:
        self._resolve = resolve or Resolver().resolve
        self._allowances: dict[str, _Allowance] = {}

    def open(self, plugin: str, granted: tuple[str, ...], listener: socket.socket) -> Door:
        """Serve a plugin's door until it is closed; what it counts goes on where the last one ended."""
        allowance = self._allowances.setdefault(plugin, _Allowance())
        return Door(plugin, Destinations(granted), listener, allowance, self._resolve)

    def counts(self, plugin: str) -> EgressCounts | None:
        """What has gone through a plugin's door since the host started."""
        allowance = self._allowances.get(plugin)
        return None if allowance is None else allowance.counts


class Door:
    """One plugin's way out."""

    def __init__(
        self, plugin: str, granted: Destinations, listener: socket.socket, allowance: _Allowance, resolve: Resolve
    ) -> None:
        self._plugin = plugin
        self._granted = granted
        self._allowance = allowance
        self._counts = allowance.counts
        self._resolve = resolve
        self._task = asyncio.get_running_loop().create_task(self._serve(listener), name=f"door of {plugin}")

    def close(self) -> None:
        """End every connection, and take no more."""
        self._task.cancel()

    # -- connections

    async def _serve(self, listener: socket.socket) -> None:
        listener.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        with listener:
            while True:
                try:
                    await self._take(listener)
                except Exception:  # noqa: BLE001 - logged; its connections are gone, and the plugin keeps its way out
                    _log.exception("door_opened_anew", plugin=self._plugin)
                    await asyncio.sleep(ACCEPT_PAUSE)

    async def _take(self, listener: socket.socket) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                connection = await self._accepted(listener)
                if connection is not None:
                    group.create_task(self._connection(connection))

    async def _accepted(self, listener: socket.socket) -> socket.socket | None:
        """The next connection; None where it could not be taken, and the next may be."""
        await asyncio.sleep(self._allowance.accepts.reserve(math.inf) or 0.0)
        try:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        except Exception as error:  # noqa: BLE001 - out of descriptors, most likely: others' connections end in time
            self._warn("egress_not_accepted", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(ACCEPT_PAUSE)
            return None
        return connection

    async def _connection(self, connection: socket.socket) -> None:
        """Serve a connection, or turn it away; whatever is raised in it ends here."""
        counts, allowance = self._counts, self._allowance
        if counts.open < MAX_CONNECTIONS:
            counts.open += 1
            try:
                await self._served(connection, self._pass)
            finally:
                counts.open -= 1
        elif allowance.turned_away < MAX_TURNED_AWAY:
            allowance.turned_away += 1
            try:
                await self._served(connection, self._turn_away)
            finally:
                allowance.turned_away -= 1
        else:
            counts.refused["too_many_connections"] += 1
            connection.close()

    async def _served(
        self,
        connection: socket.socket,
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    ) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_HEAD)
        except Exception as error:  # noqa: BLE001 - it is this connection's, and the door goes on
            connection.close()
            self._failed(error)
            return
        async with _hung_up(writer):
            try:
                await serve(reader, writer)
            except RefusedError as refused:
                await self._refuse(reader, writer, refused)
            except (OSError, TimeoutError) as error:
                _log.debug("egress_broken_off", plugin=self._plugin, error=str(error))
            except Exception as error:  # noqa: BLE001 - it is this connection's, and the door goes on
                self._failed(error)  # without an answer: the connection may be a tunnel by now

    async def _turn_away(self, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        raise RefusedError(
            "503 Service Unavailable",
            "too_many_connections",
            f"{self._plugin} has {MAX_CONNECTIONS} connections open: close one, or try again later",
        )

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, refused: RefusedError) -> None:
        self._counts.refused[refused.code] += 1
        self._warn("egress_refused", code=refused.code, reason=str(refused))
        body = f"{refused}\n".encode()
        head = (
            f"HTTP/1.1 {refused.status}\r\n{CODE_HEADER}: {refused.code}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                _write(writer, head.encode() + body)
                writer.write_eof()
                # A socket that is closed with something unread is reset, and the answer may be lost with it.
                left = CHUNK
                while left > 0 and (data := await reader.read(CHUNK)):
                    left -= len(data)

    def _failed(self, error: Exception) -> None:
        self._counts.refused["failed"] += 1
        if self._allowance.logged.take():
            _log.error("egress_connection_failed", plugin=self._plugin, exc_info=error)

    def _warn(self, event: str, **more: str) -> None:
        if self._allowance.logged.take():
            _log.warning(event, plugin=self._plugin, **more)

    # -- one request

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        request = await self._read_head(reader)
        addresses = await self._allowed(request)
        far_reader, far_writer = await self._connect(request, addresses)
        counts = self._counts
        counts.connections += 1
        sent, received = counts.sent, counts.received
        try:
            async with _hung_up(far_writer):
                if request.rest:
                    counts.sent += len(request.rest)
                    _write(far_writer, request.rest)
                else:
                    _write(writer, b"HTTP/1.1 200 Connection established\r\n\r\n")
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._copy(reader, far_writer, outward=True))
                    group.create_task(self._copy(far_reader, writer, outward=False))
        except* (OSError, TimeoutError):
            pass  # one side broke off, or nothing came for too long: the other is closed, too
        finally:
            _log.debug(
                "egress_connection",
                plugin=self._plugin,
                host=request.host,
                port=request.port,
                sent=counts.sent - sent,
                received=counts.received - received,
                seconds=round(time.monotonic() - began, 3),
            )

    async def _read_head(self, reader: asyncio.StreamReader) -> ProxyRequest:
        """The one request that a connection carries."""
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                raw = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise malformed() from None
        except TimeoutError:  # nobody reads an answer who has sent no question
            self._counts.refused["head_late"] += 1
            raise
        return read_request(raw)

    async def _allowed(self, request: ProxyRequest) -> Sequence[str]:
        """The addresses that may be connected to for this request: those that were looked at, and no others."""
        if not self._granted.holds(request.host, request.port):
            raise RefusedError(
                "403 Forbidden",
                "network_not_granted",
                f"{self._plugin} may not connect to {request.target}: list it under permissions.network in plugin.toml "
                "and have it granted",
            )
        try:
            # The wait for the plugin's other names counts, too: a client waits for this connection all the while.
            async with asyncio.timeout(RESOLVE_SECONDS), self._allowance.lookups:
                addresses = await self._resolve(request.host, request.port)
        except (OSError, TimeoutError) as error:
            raise RefusedError(
                "502 Bad Gateway",
                "name_not_resolved",
                f"{request.host} has no address: {str(error) or f'no answer within {RESOLVE_SECONDS:g} s'}",
            ) from None
        allowed = [address for address in addresses if reachable(address, request.host)]
        if not allowed:
            raise RefusedError(
                "403 Forbidden",
                "address_refused",
                f"{request.host} is at {', '.join(addresses) or 'no address'}, which is no public address: to reach "
                "it, have the address itself granted",
            )
        return allowed

    async def _connect(
        self, request: ProxyRequest, addresses: Sequence[str]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reason = "no answer in time"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_SECONDS):
                for address in addresses:
                    try:
                        return await asyncio.open_connection(address, request.port, limit=CHUNK)
                    except OSError as error:
                        reason = error.strerror or str(error)
        raise RefusedError("502 Bad Gateway", "connect_failed", f"{request.target} is not reached: {reason}")

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, outward: bool) -> None:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                data = await reader.read(CHUNK)
                if not data:
                    break
                # One chunk of a plugin's in each turn of the loop, however many of its connections are full.
                async with self._allowance.turn:
                    _write(writer, data)
                    await asyncio.sleep(0)
                await writer.drain()
            if outward:
                self._counts.sent += len(data)
            else:
                self._counts.received += len(data)
        if not writer.is_closing() and writer.can_write_eof():
            writer.write_eof()


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write to a peer that may have gone: a `ConnectionError` then, where uvloop would raise a `RuntimeError`."""
    if writer.is_closing():
        raise ConnectionResetError("the peer has gone")
    writer.write(data)


@contextlib.asynccontextmanager
async def _hung_up(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close a connection at the end; what its peer does not take in time is given up, so that none stays uncounted."""
    try:
        yield
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await writer.wait_closed()
    finally:
        writer.transport.abort()
