"""The connections of clients: how many there may be, of one address and in all, and who makes room."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiohttp import web

from host.api.connection import Connection, Deadlines, Held, Mover
from host.api.connection_counts import ConnectionCounts, Cut, Refusal

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

MAX_UNREAD: Final = 64 * 2**20
"""Bytes of answers that clients have not read yet, all together; beyond, whoever lets the host wait longest is cut."""
LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the connections, where no deadline is shorter than two of them."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caps:
    """How many connections there may be: in all, and of one address; `ceiling` as `Descriptors` has it."""

    total: int
    address: int
    ceiling: int


@dataclass(slots=True)
class _Group:
    """Connections that share a cap, the oldest first; `fresh` are those on which no request has come yet."""

    every: dict[Held, None] = field(default_factory=dict)
    fresh: dict[Held, None] = field(default_factory=dict)

    def forget(self, connection: Held) -> None:
        self.every.pop(connection, None)
        self.fresh.pop(connection, None)

    def least_needed(self) -> Held | None:
        """The one that makes room: without a request before with one, without a token before with one, the oldest.

        Those that are served elsewhere publish, and come last.
        """
        for connection in self.fresh:
            if connection.makes_room:
                return connection
        waiting = [connection for connection in self.every if connection.makes_room]
        return min(waiting, key=lambda one: (one.known, not one.here, one.waits_from), default=None)


class Connections:
    """All connections there are.

    Attributes:
        kind: What each is made of.

    Args:
        handler: Serves requests.
        caps: How many there may be.
        deadlines: How long they may keep the host waiting.
    """

    kind: type[Connection] = Connection

    def __init__(self, handler: Handler, caps: Caps, deadlines: Deadlines) -> None:
        self._handler = handler
        self._caps = caps
        self._deadlines = deadlines
        self._loop = asyncio.get_running_loop()
        self._every = min(LOOK_EVERY, min(deadlines.head, deadlines.body, deadlines.answer) / 2)
        self._server = web.Server(self._serve, access_log=None)
        self._all = _Group()
        self._groups: dict[str, _Group] = {}
        self._unread: dict[Connection, int] = {}
        self._making: set[asyncio.Task[None]] = set()
        self._look: asyncio.TimerHandle | None = None
        self._stopped = False
        self.mover: Mover | None = None
        """Takes connections to where they are served elsewhere; None where there is no such place."""
        self.now = self._loop.time()
        """The time at the last look: good enough for deadlines, and free."""
        self.counts = ConnectionCounts(lambda: self.count, self._loop.time)

    def start(self) -> None:
        """Look at the connections from here on."""
        self.look()

    async def stop(self, grace: float) -> None:
        """Let requests that are being served end for `grace` seconds, then end all connections."""
        self._stopped = True
        self.mover = None
        await asyncio.sleep(0)  # so that what came before is being served
        self._server.pre_shutdown()
        await self._server.shutdown(grace)
        if self._look is not None:
            self._look.cancel()
        for connection in tuple(self._all.every):
            connection.end(Cut.CLOSE)
        for task in tuple(self._making):
            task.cancel()

    def admit(self, address: str, number: int) -> Connection | Refusal:
        """A connection for a socket that was accepted, or why there is none.

        Where a cap is reached, the connection under it that is needed least is ended for it, if one waits for its
        client; so whoever holds connections open and says nothing keeps nobody out.

        Args:
            address: Of the peer, as `counted_as` has it.
            number: The socket's descriptor.
        """
        group = self._groups.get(address) or _Group()
        if len(group.every) >= self._caps.address and not self._make_room(group):
            return self.refuse(Refusal.ADDRESS, address)
        if len(self._all.every) >= self._caps.total and not self._make_room(self._all):
            return self.refuse(Refusal.TOTAL, address)
        if number >= self._caps.ceiling:
            self.make_room()
            return self.refuse(Refusal.DESCRIPTORS, address)
        connection = self._connection(address)
        self.hold(connection)
        for each in (self._groups[address], self._all):
            each.fresh[connection] = None
        self.counts.accepted()
        return connection

    def hold(self, connection: Held) -> None:
        """Count a connection from here on, whatever the caps."""
        group = self._groups.setdefault(connection.address, _Group())
        for each in (group, self._all):
            each.every[connection] = None

    def adopt(self, address: str, accepted: socket.socket, came: bytes, moves: int = 0) -> Connection:
        """Serve a connection that was let in elsewhere, and from which this was read."""
        connection = self._connection(address, came, moves)
        connection.known = True
        self.hold(connection)
        self.serve(connection, accepted)
        return connection

    def _connection(self, address: str, came: bytes = b"", moves: int = 0) -> Connection:
        # aiohttp ends what is idle between two requests; its other deadlines are ours.
        return self.kind(
            self,
            address,
            self._server,
            came=came,
            moves=moves,
            access_log=None,
            keepalive_timeout=self._deadlines.idle,
        )

    def serve(self, connection: Connection, accepted: socket.socket) -> None:
        """Serve a connection on the socket that it was made for."""
        if self._stopped:
            accepted.close()
            self.forget(connection)
            return
        task = self._loop.create_task(self._make(connection, accepted))
        self._making.add(task)
        task.add_done_callback(self._making.discard)

    async def _make(self, connection: Connection, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted)
        except OSError as error:  # the client is gone already
            _log.debug("connection_not_made", address=connection.address, error=str(error))
            accepted.close()
            self.forget(connection)

    def refuse(self, why: Refusal, address: str) -> Refusal:
        """Count a connection that is not taken."""
        self.counts.refused(why, address)
        return why

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._all.every)

    def cut(self, connection: Held, why: Cut) -> None:
        """End a connection, and count it."""
        connection.end(why)
        self.counts.cut(why, connection.address)

    def forget(self, connection: Held) -> None:
        """A connection is gone; said twice, it is gone once."""
        self._all.forget(connection)
        group = self._groups.get(connection.address)
        if group is not None:
            group.forget(connection)
            if not group.every:
                del self._groups[connection.address]
        if isinstance(connection, Connection):
            self._unread.pop(connection, None)

    def stalled(self, connection: Connection, size: int) -> None:
        """A client has `size` bytes to read, more than one may leave lying."""
        self._unread[connection] = size
        while len(self._unread) > 1 and sum(self._unread.values()) > MAX_UNREAD:
            longest = next(iter(self._unread))
            del self._unread[longest]
            self.cut(longest, Cut.ANSWER)

    def resumed(self, connection: Connection) -> None:
        """It has read them."""
        self._unread.pop(connection, None)

    def look(self) -> None:
        """End what has kept the host waiting for too long; say what was refused; look again after a while."""
        self._look = self._loop.call_later(self._every, self.look)
        # Whatever began since the last look has that one's time, and would be cut too soon by up to the time between.
        now, self.now = self._loop.time() - self._every, self._loop.time()
        for connection, why in [*self._overdue(tuple(self._all.every), now)]:
            self.cut(connection, why)
        self.counts.say()

    def _overdue(self, connections: Iterable[Held], now: float) -> Iterable[tuple[Connection, Cut]]:
        for connection in connections:
            if isinstance(connection, Connection) and (why := connection.overdue(now, self._deadlines)) is not None:
                yield connection, why

    def _serve(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.begun(request)
            if connection in self._all.fresh:
                del self._all.fresh[connection]
                del self._groups[connection.address].fresh[connection]
        return self._handler(request)

    def make_room(self) -> None:
        """Have the connection that is needed least make room, where there is no descriptor for another."""
        self._make_room(self._all)

    def _make_room(self, group: _Group) -> bool:
        """Have a connection of the group make room; whether one did."""
        connection = group.least_needed()
        if connection is None:
            return False
        self.cut(connection, Cut.ROOM)
        self.forget(connection)
        return True
