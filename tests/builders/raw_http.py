"""A client that sends what it is given: targets, headers and bodies byte by byte, and keeps its connections."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple


class Answered(NamedTuple):
    """An answer as it came: header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class RawClient:
    """One connection to a server, made anew when the server has ended it."""

    def __init__(self, port: int, token: str = "") -> None:
        self._port = port
        self._token = token
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self,
        method: str,
        target: str | bytes,
        *,
        body: bytes | None = None,
        headers: list[tuple[str, str | bytes]] | None = None,
        token: str | None = None,
    ) -> Answered:
        """Send one request; its answer."""
        lines: list[tuple[str, str | bytes]] = [("Host", "127.0.0.1")]
        secret = self._token if token is None else token
        if secret:
            lines.append(("Authorization", f"Bearer {secret}"))
        lines += headers or []
        if body is not None and not any(name.lower() == "transfer-encoding" for name, _ in lines):
            lines.append(("Content-Length", str(len(body))))
        head = b"\r\n".join(
            [method.encode() + b" " + _bytes(target) + b" HTTP/1.1"]
            + [name.encode() + b": " + _bytes(value) for name, value in lines]
        )
        raw = head + b"\r\n\r\n" + (body or b"")
        try:
            return await self._exchange(method, raw)
        except (ConnectionError, asyncio.IncompleteReadError):
            await self.close()  # the server had ended a connection that it kept for a while
            return await self._exchange(method, raw)

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection[1].close()
            self._connection = None

    async def _exchange(self, method: str, raw: bytes) -> Answered:
        if self._connection is None:
            self._connection = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        reader, writer = self._connection
        writer.write(raw)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
        status = int(line.split(" ")[1])
        length = int(headers.get("content-length", "0"))
        body = await reader.readexactly(length) if method != "HEAD" and length else b""
        if headers.get("connection", "").lower() == "close":
            await self.close()
        return Answered(status, headers, body)


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text
