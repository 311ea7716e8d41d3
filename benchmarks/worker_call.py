"""The median of one guarded delivery to a worker, beside a bare echo of the same bytes over a socket pair.

The echo is the least that a round trip between two asyncio processes can be: the same kind of socket pair, a
protocol that writes back what it reads, the same loops on both sides. Near and far sides are pinned to two
processors, so that the scheduler's choice of the moment is the same for both figures.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import time
from collections.abc import Iterable
from typing import Final, cast

import uvloop

from benchmarks import worker
from benchmarks.measure import Figure

NAME: Final = "worker-call"
ROUNDS: Final = 7
CALLS: Final = 1_500


class _Echo(asyncio.Protocol):
    """The peer's far side: writes back what it reads."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        os._exit(0)


class _Caller(asyncio.Protocol):
    """The peer's near side: one message out, the same number of bytes back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._waiting: asyncio.Future[None] | None = None
        self._missing = 0

    def data_received(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing == 0 and self._waiting is not None:
            self._waiting.set_result(None)

    async def call(self, message: bytes) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        self._missing = len(message)
        self.transport.write(message)
        await self._waiting


def run() -> Iterable[Figure]:
    """Measure; the medians of rounds that alternate between the sides."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    near, *_, far = sorted(os.sched_getaffinity(0)) * 2
    pid = os.fork()  # before there is a loop: the child runs its own
    if pid == 0:
        os.sched_setaffinity(0, {far})
        mine.close()
        _serve_echo(theirs)
    theirs.close()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_measure(mine, near, far))
    finally:
        os.sched_setaffinity(0, {near, far})
        os.waitpid(pid, 0)


def _serve_echo(connection: socket.socket) -> None:
    connection.setblocking(False)  # noqa: FBT003 - the socket module's own signature

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(_Echo, sock=connection)
        await loop.create_future()

    try:
        asyncio.run(serve())
    finally:
        os._exit(1)


async def _measure(connection: socket.socket, near: int, far: int) -> list[Figure]:
    connection.setblocking(False)  # noqa: FBT003 - the socket module's own signature
    loop = asyncio.get_running_loop()
    _, echo = await loop.create_unix_connection(_Caller, sock=connection)
    body = worker.event().to_json()
    ours: list[float] = []
    theirs: list[float] = []
    async with worker.worker() as runtime:
        os.sched_setaffinity(runtime.snapshot().pid or 0, {far})
        os.sched_setaffinity(0, {near})
        deliverer = worker.Deliverer(8, runtime)
        for _ in range(ROUNDS):
            theirs.append(await _median(lambda: echo.call(body)))
            ours.append(await _median(deliverer.deliver))
    echo.transport.close()
    return [Figure(NAME, statistics.median(ours), "µs", "bare echo, p50", statistics.median(theirs))]


async def _median(call: object) -> float:
    durations: list[float] = []
    for _ in range(CALLS):
        started = time.perf_counter()
        await call()  # type: ignore[operator]  # one of the two functions above
        durations.append(time.perf_counter() - started)
    return statistics.median(durations) * 1e6
