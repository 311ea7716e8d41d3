"""A small answer that is written in one piece.

aiohttp prepares an answer in steps that suit every kind of body; for a few hundred bytes of JSON they cost more
than the bytes. This one renders head and body itself where it can, and leaves the rest to aiohttp.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

SMALL: Final = 64 * 1024
"""Bytes of a body that is written in one piece with its head."""

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


JSON: Final = "application/json; charset=utf-8"
_PLAIN: Final = (
    f"Content-Type: {JSON}\r\nX-Trace-ID: %s\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
)


def stamp(response: web.StreamResponse, trace: str) -> None:
    """Give an answer the headers that every answer has."""
    if isinstance(response, RenderedResponse) and response.plain and not response.headers:
        response.trace = trace
        return
    headers = response.headers
    headers["X-Trace-ID"] = trace
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Cache-Control"] = "no-store"


class RenderedResponse(web.Response):
    """An answer of JSON whose whole body is there when it is made. Its headers must be the host's own text.

    Most have no headers but those of every answer, which are only put together where somebody else reads them.
    """

    def __init__(self, body: bytes, status: int, headers: Mapping[str, str] | None) -> None:
        super().__init__(body=body, status=status, headers=headers)
        self.plain = not headers
        """Whether it has no header of its own."""
        self.trace = ""
        """The trace id, where it is to have the headers of every answer and they are not there yet."""
        if headers:
            self.headers["Content-Type"] = JSON

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Called by aiohttp: write the answer, or let aiohttp."""
        transport, body, status = request.transport, self.body, self.status
        if (
            transport is None
            or not isinstance(body, bytes)
            or len(body) > SMALL
            or request.version != HttpVersion11
            or not request.keep_alive
            or self.keep_alive is False
            or request.method == hdrs.METH_HEAD
            or status not in _STATUS_LINES
        ):
            self._spell_out()
            return await super().prepare(request)
        if self.plain and self.trace and not self.headers:
            head = _PLAIN % self.trace
        else:
            self._spell_out()
            head = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        start = f"{_STATUS_LINES[status]}{head}Content-Length: {len(body)}\r\nDate: {rfc822_formatted_time()}\r\n\r\n"
        transport.write(start.encode() + body)
        self._keep_alive = True
        self._eof_sent = True  # aiohttp has nothing left to write
        if request.protocol.writing_paused:
            # Small answers add up where a client asks again and again and reads none of them.
            await request.writer.drain()
        return None

    def _spell_out(self) -> None:
        if not self.plain:
            return
        self.plain = False
        self.headers["Content-Type"] = JSON
        if self.trace:
            stamp(self, self.trace)
