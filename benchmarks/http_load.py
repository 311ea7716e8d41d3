"""A load generator that costs little itself: keep-alive connections, each with one request in flight.

Run as a process of its own: `python -m benchmarks.http_load PORT PATH CONNECTIONS SECONDS TOKEN [BATCH]`. It prints
one JSON object: answers counted, answers other than 202, and the seconds between first and last. With BATCH, every
request is a batch of so many events.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from typing import Final, cast

import uvloop

RUN: Final = uuid.uuid4().hex
WARM_UP_SECONDS: Final = 0.5
ACCEPTED: Final = b"202"


def event(number: int) -> bytes:
    """One structured CloudEvent of an ordinary size (about 300 bytes), unlike every other."""
    return (
        b'{"specversion":"1.0","id":"%s-%012d","source":"/benchmarks/ingest","type":"benchmark.event",'
        b'"subject":"user-4711","time":"2026-11-20T10:00:00Z","datacontenttype":"application/json",'
        b'"data":{"milestoneId":"m-1","userId":"user-4711","progress":100,"note":"forty characters of plain text"}}'
    ) % (RUN.encode(), number)


def whole_answer(buffer: bytes) -> bytes | None:
    """The status of an answer that has come as a whole; None while some of it is missing."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = buffer[:end].lower()
    at = head.find(b"content-length:")
    length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    return None if len(buffer) < end + 4 + length else head[9:12]


class Load:
    """Counts what all connections got back."""

    def __init__(self, path: str, token: str, batch: int = 0) -> None:
        self._batch = batch
        self.answers = 0
        self.refused = 0
        self.number = 0
        self.stopped = False
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/cloudevents{'-batch' if batch else ''}+json\r\nContent-Length: "
        ).encode()

    def request(self) -> bytes:
        """The next request."""
        first, self.number = self.number + 1, self.number + (self._batch or 1)
        body = event(first)
        if self._batch:
            body = b"[%s]" % b",".join(map(event, range(first, first + self._batch)))
        return b"%s%d\r\n\r\n%s" % (self._head, len(body), body)


class Connection(asyncio.Protocol):
    """One connection: sends the next request when the answer to the last is whole."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._load.request())

    def data_received(self, data: bytes) -> None:
        """Count a whole answer and go on."""
        self._buffer += data
        status = whole_answer(self._buffer)
        if status is None:
            return
        self._load.answers += 1
        self._load.refused += status != ACCEPTED
        self._buffer = b""
        if self._load.stopped:
            self._transport.close()
        else:
            self._transport.write(self._load.request())

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the runner."""
        if not self.lost.done():
            self.lost.set_result(exc)


async def run(port: int, path: str, connections: int, seconds: float, token: str, batch: int) -> dict[str, float]:
    """Load the server for `seconds` after a warm-up; what was counted."""
    loop = asyncio.get_running_loop()
    load = Load(path, token, batch)
    opened = [
        (await loop.create_connection(lambda: Connection(load), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    await asyncio.sleep(WARM_UP_SECONDS)
    before, started = load.answers, time.perf_counter()
    await asyncio.sleep(seconds)
    counted, elapsed = load.answers - before, time.perf_counter() - started
    load.stopped = True
    await asyncio.wait([connection.lost for connection in opened], timeout=10)
    return {"answers": counted, "refused": load.refused, "seconds": elapsed}


if __name__ == "__main__":
    port_, path_, connections_, seconds_, token_ = sys.argv[1:6]
    batch_ = int(sys.argv[6]) if len(sys.argv) > 6 else 0
    found = uvloop.run(run(int(port_), path_, int(connections_), float(seconds_), token_, batch_))
    print(json.dumps(found))
