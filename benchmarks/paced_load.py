"""A load generator that keeps to a rate: requests go out at their times, whether the others are answered or not.

Run as a process of its own: `python -m benchmarks.paced_load PORT CONNECTIONS RATE SECONDS TOKEN`. Every event has
the time it was sent (`sentAt`, seconds of the machine's monotonic clock) in its data. It prints one JSON object:
answers, answers other than 202, and the 99th percentile of the time to the answer, in seconds.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
import uuid
from collections import deque
from typing import Final, cast

import uvloop

from benchmarks.http_load import ACCEPTED, whole_answer

RUN: Final = uuid.uuid4().hex
PERCENTILE: Final = 99


class Load:
    """The connections, and what was measured."""

    def __init__(self, token: str) -> None:
        self.free: deque[Connection] = deque()
        self.latencies: list[float] = []
        self.refused = 0
        self.number = 0
        self._head = (
            f"POST /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/cloudevents+json\r\nContent-Length: "
        ).encode()

    def request(self, sent_at: float) -> bytes:
        """The next request."""
        self.number += 1
        body = (
            b'{"specversion":"1.0","id":"%s-%012d","source":"/benchmarks/paced","type":"benchmark.event",'
            b'"subject":"user-4711","time":"2026-11-20T10:00:00Z","datacontenttype":"application/json",'
            b'"data":{"sentAt":%.6f,"milestoneId":"m-1","userId":"user-4711","progress":100,"note":"plain text"}}'
        ) % (RUN.encode(), self.number, sent_at)
        return b"%s%d\r\n\r\n%s" % (self._head, len(body), body)


class Connection(asyncio.Protocol):
    """One connection with at most one request in flight."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be free for a request."""
        self._transport = cast("asyncio.Transport", transport)
        self._load.free.append(self)

    def send(self) -> None:
        """Send the next request."""
        self._sent_at = time.monotonic()
        self._transport.write(self._load.request(self._sent_at))

    def close(self) -> None:
        """End it."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Measure a whole answer."""
        self._buffer += data
        status = whole_answer(self._buffer)
        if status is None:
            return
        self._load.latencies.append(time.monotonic() - self._sent_at)
        self._load.refused += status != ACCEPTED
        self._buffer = b""
        self._load.free.append(self)


async def run(port: int, connections: int, rate: float, seconds: float, token: str) -> dict[str, float]:
    """Send at `rate` requests a second for `seconds`; what was measured."""
    loop = asyncio.get_running_loop()
    load = Load(token)
    opened = [
        (await loop.create_connection(lambda: Connection(load), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    started = time.monotonic()
    due = 0
    while (now := time.monotonic() - started) < seconds:
        while due < now * rate and load.free:
            load.free.popleft().send()
            due += 1
        await asyncio.sleep(max(0.0, due / rate - (time.monotonic() - started)))
    await asyncio.sleep(0.5)
    for connection in opened:
        connection.close()
    p99 = statistics.quantiles(load.latencies, n=100)[PERCENTILE - 1]
    return {"answers": len(load.latencies), "refused": load.refused, "p99": p99}


if __name__ == "__main__":
    port_, connections_, rate_, seconds_, token_ = sys.argv[1:6]
    found = uvloop.run(run(int(port_), int(connections_), float(rate_), float(seconds_), token_))
    print(json.dumps(found))
