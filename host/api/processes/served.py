"""The connections of an HTTP process: each is served for as long as what comes on it is ordinary publishing.

aiohttp reads the requests, one at a time: a request is given to it to its last byte, and what comes behind waits until
the answer is out. So at every moment it is known to the byte what was served and what was not, and a connection can go
back to the host.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable
from typing import Any, Final

from aiohttp import web

from host.api.bodies import BODIES, TOKEN, Bodies
from host.api.connection import MAX_QUEUED, Connection, Deadlines, Held
from host.api.connection_counts import Cut
from host.api.connections import Caps, Connections
from host.api.endpoint import RawHandler
from host.api.processes.channel import Send
from host.api.processes.ordinary import Judge
from host.api.processes.remote import RemoteCounts
from host.api.processes.wire import Gone, Moved
from host.identity.access import Token

NO_CAP: Final = 2**31
AGAIN: Final = 0.002
"""Seconds between two looks at whether the client has read its answer, before the connection goes back."""


class ServedConnection(Connection):
    """One connection."""

    __slots__ = ("_ahead", "_answer_out", "_held", "_leaving", "_left", "_missing", "number", "token")

    def __init__(self, within: Connections, address: str, server: web.Server, **options: Any) -> None:
        super().__init__(within, address, server, **options)
        self.number = 0
        """What the host knows it by."""
        self.token: Token | None = None
        """That the request came with that is being served."""
        self._ahead = b""
        """What came behind the request that is being served."""
        self._missing = 0
        """Bytes of that request that are still to come."""
        self._answer_out = True
        self._held = False
        self._leaving = False
        self._left = False

    @property
    def home(self) -> ServedConnections:
        """All of them."""
        within = self._within
        if not isinstance(within, ServedConnections):
            raise TypeError("a connection of an HTTP process is among its own kind")
        return within

    def data_received(self, data: bytes) -> None:
        """Called by the loop, and by aiohttp itself without data."""
        self._read(data)

    def _read(self, data: bytes) -> None:
        if self._left:
            return
        if not data:
            super()._read(data)
            return
        self._ahead = self._ahead + data if self._ahead else data
        self._go_on()
        if len(self._ahead) > MAX_QUEUED and not self._left:
            self._held = True
            self._pause_transport_reading()

    def _resume_transport_reading(self) -> None:
        """Called by aiohttp, which knows nothing of what waits here."""
        if not self._held and not self._leaving:
            super()._resume_transport_reading()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Any:
        """Called by aiohttp where a request was served, and its answer goes out."""
        found = await super().finish_response(request, resp, start_time)
        self._answer_out = True
        if self._ahead:
            self._loop.call_soon(self._go_on)
        return found

    def make_room(self) -> None:
        """End, once no request is served."""
        if self.makes_room:
            self.end(Cut.ROOM)
        else:
            self.close()

    def _go_on(self) -> None:
        """Give aiohttp what belongs to the request that is being served, or to the next where none is."""
        while self._ahead and not (self._leaving or self._close or self._force_close):
            if not self._missing:
                if not self._answer_out:
                    return
                judged = self.home.judge(self._ahead)
                if judged is None:
                    self._leaving = True
                    self._leave()
                    return
                self._missing, self.token = judged
                self._answer_out = False
            ahead, size = self._ahead, self._missing
            part, self._ahead = (ahead, b"") if len(ahead) <= size else (ahead[:size], ahead[size:])
            self._missing -= len(part)
            super()._read(part)
        if self._held and len(self._ahead) <= MAX_QUEUED:
            self._held = False
            if not (self._reading_paused or self._buffer_paused):
                self._resume_transport_reading()

    def _leave(self) -> None:
        """Go back to the host, with what came of the next request, once the client has what it was answered."""
        wire = self.wire
        if wire is None or wire.is_closing():
            return
        if wire.get_write_buffer_size():
            self._pause_transport_reading()
            self._loop.call_later(AGAIN, self._leave)  # for as long as the deadline of an answer lets it
            return
        try:
            descriptor = self.leave()
        except OSError:
            wire.abort()
            return
        self._left = True
        self.home.moved(self, descriptor, self._ahead)
        self._ahead = b""
        self.let_go()


class ServedConnections(Connections):
    """All connections that a process has; how many there may be, the host sees to.

    Args:
        handler: Serves requests that publish.
        deadlines: How long clients may keep it waiting.
        judge: Says which requests are served here.
        counts: Told of those that are ended.
        bodies: Counts bytes of bodies.
        send: Says something to the host.
    """

    kind = ServedConnection

    def __init__(
        self,
        handler: RawHandler,
        deadlines: Deadlines,
        *,
        judge: Judge,
        counts: RemoteCounts,
        bodies: Bodies,
        send: Send,
    ) -> None:
        super().__init__(self._publish, Caps(NO_CAP, NO_CAP, NO_CAP), deadlines)
        self.judge = judge
        self._publishes = handler
        self._told = counts
        self._bodies = bodies
        self._send = send
        self._numbers: dict[int, ServedConnection] = {}

    def take(self, message: Moved, accepted: socket.socket) -> None:
        """Serve a connection that the host hands over."""
        connection = self.adopt(message.address, accepted, message.came)
        if isinstance(connection, ServedConnection):
            connection.number = message.number
            self._numbers[message.number] = connection

    def moved(self, connection: ServedConnection, descriptor: int, ahead: bytes) -> None:
        """A connection goes back to the host."""
        if self._numbers.pop(connection.number, None) is not None:
            self._send(Moved(connection.number, connection.address, ahead), descriptor)
        super().forget(connection)

    def forget(self, connection: Held) -> None:
        """A connection is gone."""
        super().forget(connection)
        if isinstance(connection, ServedConnection) and self._numbers.pop(connection.number, None) is not None:
            self._send(Gone(connection.number))

    def find(self, number: int) -> ServedConnection | None:
        """The connection of that number, if it is still here."""
        return self._numbers.get(number)

    def cut(self, connection: Held, why: Cut) -> None:
        """End a connection, and have the host count it."""
        connection.end(why)
        self._told.cut(why, connection.address)

    def _publish(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        connection = request.protocol
        token = connection.token if isinstance(connection, ServedConnection) else None
        if token is not None:
            request[TOKEN] = token
        request[BODIES] = self._bodies
        return self._publishes(request)
