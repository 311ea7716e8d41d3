"""One connection of a client, and what is needed to say whether it keeps the host waiting.

aiohttp speaks HTTP on it. What it leaves open is here: it waits for a head, a body or a reader as long as it is let. A
connection is looked at once in a while instead of having timers of its own, so a request costs nothing more than a few
assignments.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from host.api.bodies import TOKEN
from host.api.connection_counts import Cut
from host.api.farewell import SLOW_BODY, SLOW_HEAD, WIDE_HEAD, farewell

if TYPE_CHECKING:
    from host.api.connections import Connections

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's line and headers together, give or take what comes at once."""
MAX_QUEUED: Final = 64 * 1024
"""Bytes of requests that wait behind the first one on a connection; more are read when there is room again."""
LEAST_RATE: Final = 4 * 1024
"""Bytes a second that a body must come with, and an answer be read with, once its time is up."""
MAX_MOVES: Final = 8
"""Changes of sides of one connection, after which it stays: it is not one that mostly publishes."""

_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a client may keep the host waiting, in seconds.

    Attributes:
        head: For the whole head of a request, from the connection or from the head's first byte on.
        body: For a body, beside what `LEAST_RATE` allows for what has come.
        idle: Between two requests.
        answer: For reading an answer, beside what `LEAST_RATE` allows for what was read.
    """

    head: float
    body: float
    idle: float
    answer: float


class Mover(Protocol):
    """Hands connections over to be served elsewhere."""

    def offer(self, connection: Connection, came: bytes) -> bool:
        """Take a connection, which is between two requests, with what has come of the next one; whether it was."""
        ...

    def whole(self, came: bytes) -> bool:
        """Whether this is one request, with a body that it says the length of, to its last byte and nothing more."""
        ...


class Held(Protocol):
    """A connection as those who count see it: served here, or elsewhere."""

    address: str
    known: bool
    waits_from: float

    @property
    def makes_room(self) -> bool:
        """Whether it waits for its client and not for the host, so that ending it breaks no work off."""
        ...

    @property
    def here(self) -> bool:
        """Whether it is served here."""
        ...

    def end(self, why: Cut) -> None:
        """End it."""
        ...


class Connection(web.RequestHandler):
    """One connection, and what is needed to say whether it keeps the host waiting.

    `came` is what was read from it before, elsewhere; `moves`, how often it has changed sides.
    """

    __slots__ = (
        "_answered",
        "_between",
        "_body_from",
        "_came",
        "_closing_from",
        "_content",
        "_head_from",
        "_queued",
        "_request",
        "_stalled",
        "_unparsed",
        "_within",
        "address",
        "known",
        "moves",
        "received",
        "waits_from",
        "wire",
    )

    here = True

    def __init__(
        self,
        within: Connections,
        address: str,
        server: web.Server,
        *,
        came: bytes = b"",
        moves: int = 0,
        **options: Any,
    ) -> None:
        # Whoever reads a body undoes its coding, within the bound of its endpoint: see `host.api.body`.
        super().__init__(server, loop=asyncio.get_running_loop(), auto_decompress=False, **options)
        self._within = within
        self.address = address
        self.wire: asyncio.Transport | None = None
        self.known = False
        """Whether a request with a valid token has come on it."""
        self.waits_from = within.now
        """Since when it waits for a request, or for the rest of one."""
        self.received = 0
        self._answered = False
        self._request: web.BaseRequest | None = None
        self._content: StreamReader | None = None
        self._unparsed = 0
        self._head_from = within.now
        self._body_from = (0.0, 0)
        self._queued = 0
        self._stalled: tuple[float, int] | None = None
        self._closing_from: float | None = None
        self._came = came
        self.moves = moves
        """How often it has changed sides."""
        self._between = within.mover is not None and moves < MAX_MOVES
        """Whether all that was read is of whole requests, so that the connection may be moved. Once it cannot be told,
        it is never known again."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        super().connection_made(transport)
        self.wire = self.transport
        if self._came:
            came, self._came = self._came, b""
            self._read(came)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by the loop."""
        super().connection_lost(exc)
        self.wire = None
        self._within.forget(self)

    def data_received(self, data: bytes) -> None:
        """Called by the loop, and by aiohttp itself without data."""
        mover = self._within.mover
        if self._between and data and mover is not None and self._idle and mover.offer(self, data):
            return
        self._read(data)

    def _read(self, data: bytes) -> None:
        known = self._request_count
        of_body = self._content is not None and not self._content.is_eof()
        super().data_received(data)
        self.received += len(data)
        if self._request_count == known:
            if data:
                self._between = False
            if not of_body:
                self._more(len(data))
            return
        self._unparsed = 0
        self._content = self._messages[-1][1]
        if self._between:
            self._between = self._request_count == known + 1 and self._whole(data)
        self._queued = self._queued + len(data) if len(self._messages) > 1 else 0
        if self._queued > MAX_QUEUED and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def _whole(self, data: bytes) -> bool:
        """Whether one request ended with this, so that nothing of another one is in the parser."""
        content, mover = self._content, self._within.mover
        if content is EMPTY_PAYLOAD:
            return data.find(_END) == len(data) - len(_END)
        return content is not None and content.is_eof() and mover is not None and mover.whole(data)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Called by aiohttp at every body that was read; where nothing was paused, nothing waits in its parser."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def pause_writing(self) -> None:
        """Called by the loop: the client does not read as fast as it asks."""
        super().pause_writing()
        size = self.wire.get_write_buffer_size() if self.wire is not None else 0
        self._stalled = (self._within.now, size)
        self._within.stalled(self, size)

    def resume_writing(self) -> None:
        """Called by the loop."""
        super().resume_writing()
        self._stalled = None
        self.waits_from = self._within.now
        self._within.resumed(self)

    def begun(self, request: web.BaseRequest) -> None:
        """A request is served from here on."""
        self._request = request
        self._body_from = (self._within.now, self.received)

    def finish_response(self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None) -> Any:
        """Called by aiohttp where a request was served, and its answer goes out."""
        self._request = None
        self._answered = True
        self.known = self.known or TOKEN in request
        self.waits_from = self._within.now
        return super().finish_response(request, resp, start_time)

    @property
    def _idle(self) -> bool:
        """Whether no request is served on it, and the answers to all before are on their way."""
        return (
            (self._waiter is not None or not self._request_count)
            and not (self._messages or self._upgraded or self._close or self._force_close)
            and self._request is None
            and self.wire is not None
            and not self.wire.get_write_buffer_size()
        )

    def leave(self) -> int:
        """Read no more, for it goes elsewhere: the descriptor of its socket, which is good until `let_go`.

        Raises:
            ConnectionResetError: it is gone, or about to be.
        """
        wire = self.wire
        if wire is None or wire.is_closing():
            raise ConnectionResetError("the connection is gone")
        wire.pause_reading()
        number = wire.get_extra_info("socket").fileno()
        if not isinstance(number, int) or number < 0:
            raise ConnectionResetError("the connection is gone")
        return number

    def let_go(self) -> None:
        """It is elsewhere: close this end of it, which nobody at the other hears of."""
        if self.wire is not None:
            self.wire.abort()

    @property
    def makes_room(self) -> bool:
        """Whether it waits for its client and not for the host, so that ending it breaks no work off."""
        if self.wire is None or self._messages:
            return False
        return self._request is None or not self._request.content.is_eof()

    def overdue(self, now: float, deadlines: Deadlines) -> Cut | None:
        """What it did not do in time."""
        wire = self.wire
        if wire is None:
            return None
        if wire.is_closing():
            if self._closing_from is None:
                self._closing_from = now
            return Cut.CLOSE if now - self._closing_from > deadlines.answer else None
        if self._stalled is not None:
            since, size = self._stalled
            read = max(0, size - wire.get_write_buffer_size())
            return Cut.ANSWER if now - since > deadlines.answer + read / LEAST_RATE else None
        if self._request is not None:
            return self._slow_body(now, deadlines)
        since = self._head_from if self._unparsed or not self._answered else now
        return Cut.HEAD if now - since > deadlines.head else None

    def end(self, why: Cut) -> None:
        """End it, with a word where the client may still hear one."""
        wire = self.wire
        if wire is None:
            return
        if wire.is_closing() or why in {Cut.ANSWER, Cut.CLOSE, Cut.ROOM}:
            wire.abort()
            return
        if why is Cut.BODY:
            wire.write(farewell(SLOW_BODY))
        elif self._unparsed:
            wire.write(farewell(WIDE_HEAD if self._unparsed > MAX_HEAD else SLOW_HEAD))
        wire.close()

    def _slow_body(self, now: float, deadlines: Deadlines) -> Cut | None:
        if self._request is None or self._request.content.is_eof():
            return None
        if self._reading_paused:  # it is the host that does not read
            self._body_from = (now, self.received)
            return None
        since, before = self._body_from
        come = self.received - before
        return Cut.BODY if now - since > deadlines.body + come / LEAST_RATE else None

    def _more(self, size: int) -> None:
        """What came is of no body and began no request: it is of a head that has not ended, or of no use."""
        if not size or self._buffer_paused or self._upgraded:
            return
        if not self._unparsed and self._answered:
            self._head_from = self._within.now
        self._unparsed += size
        if self._unparsed > MAX_HEAD:
            self._within.cut(self, Cut.HEAD)
