"""A small answer that is written in one piece.

aiohttp prepares an answer in steps that suit every kind of body; for a few hundred bytes of JSON they cost more
than the bytes. This one renders head and body itself where it can, and leaves the rest to aiohttp.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

SMALL: Final = 64 * 1024
"""Bytes of a body that is written in one piece with its head."""

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class RenderedResponse(web.Response):
    """An answer whose whole body is there when it is made. Its headers must be the host's own text."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Called by aiohttp: write the answer, or let aiohttp."""
        transport, body = request.transport, self.body
        if (
            transport is None
            or not isinstance(body, bytes)
            or len(body) > SMALL
            or request.version != HttpVersion11
            or not request.keep_alive
            or self.keep_alive is False
            or request.method == hdrs.METH_HEAD
            or self.status not in _STATUS_LINES
        ):
            return await super().prepare(request)
        head = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        start = (
            f"{_STATUS_LINES[self.status]}{head}Content-Length: {len(body)}\r\nDate: {rfc822_formatted_time()}\r\n\r\n"
        )
        transport.write(start.encode() + body)
        self._keep_alive = True
        self._eof_sent = True  # aiohttp has nothing left to write
        if request.protocol.writing_paused:
            # Small answers add up where a client asks again and again and reads none of them.
            await request.writer.drain()
        return None
