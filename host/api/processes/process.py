"""The process itself: what is started by `HttpProcess`, and ends with the host."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
import sys
from typing import Final

import msgspec
import structlog
import uvloop

from host.api.bodies import Bodies
from host.api.connection import Deadlines
from host.api.middlewares import edge
from host.api.processes.channel import Channel
from host.api.processes.ordinary import Judge
from host.api.processes.remote import RemoteBus, RemoteCounts, RemoteRefusals
from host.api.processes.served import ServedConnections
from host.api.processes.wire import (
    Begin,
    InForce,
    KnownTokens,
    MakeRoom,
    Moved,
    Noted,
    Published,
    Ready,
    Stop,
    ToProcess,
)
from host.api.resources.publishing import BASE, BATCH_BODIES, Publishing
from host.identity.access import TokenTable
from host.observe import logging as host_logging
from plugin_sdk.clock import SystemClock

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
COLLECT_AFTER: Final = 50_000
"""As in the host: what a request makes is gone before a collection could find it."""

_log = structlog.get_logger(__name__)


class Process:
    """Serves the connections that the host hands over, until the host is gone or says to stop."""

    def __init__(self, connection: socket.socket) -> None:
        self._ended = asyncio.get_running_loop().create_future()
        self._channel: Channel[ToProcess] = Channel(
            connection, msgspec.msgpack.Decoder(ToProcess), self._told, self._lost
        )
        send = self._channel.send
        self._tokens = TokenTable(SystemClock())
        self._bus = RemoteBus(send)
        self._refusals = RemoteRefusals(send)
        self._counts = RemoteCounts(send)
        self._connections: ServedConnections | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until there is nothing more to do."""
        self._channel.start()
        await self._ended

    def _told(self, message: ToProcess, beside: socket.socket | None) -> None:
        match message:
            case Published():
                self._bus.answered(message)
            case Moved() if beside is not None and self._connections is not None:
                self._connections.take(message, beside)
            case MakeRoom() if self._connections is not None:
                connection = self._connections.find(message.number)
                if connection is not None:
                    connection.make_room()
            case Noted():
                self._refusals.noted(message.number)
            case KnownTokens():
                self._tokens.by_hash.clear()
                self._tokens.by_hash.update(message.tokens)
                self._channel.send(InForce(message.change))
            case Begin():
                self._begin(message)
            case Stop():
                self._stopping = asyncio.get_running_loop().create_task(self._stop(message.grace))

    def _begin(self, message: Begin) -> None:
        host_logging.configure(message.log_level, message.log_format)
        publishing = Publishing(self._bus, message.max_event)
        self._connections = ServedConnections(
            edge(self._counts, publishing.publish, quiet=True, route=BASE, refusals=self._refusals),
            Deadlines(head=message.head, body=message.body, idle=message.idle, answer=message.answer),
            judge=Judge(self._tokens, BATCH_BODIES * message.max_event),
            counts=self._counts,
            bodies=Bodies(known=message.body_bytes),
            send=self._channel.send,
        )
        self._connections.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER)
        self._channel.send(Ready())

    async def _stop(self, grace: float) -> None:
        if self._connections is not None:
            await self._connections.stop(grace)
        self._counts.tell()
        await self._channel.flushed()
        self._channel.close()
        self._lost()

    def _lost(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


def main(number: int, parent: int) -> None:
    """Entry point: `number` is the descriptor of the way to the host, `parent` its process id."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return  # it was gone before this was asked for
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)  # the whole group may get them; when this ends, the host says
    uvloop.run(_run(number))
    sys.stdout.flush()
    os._exit(0)  # whoever is still waiting for something waits for a host that is gone


async def _run(number: int) -> None:
    await Process(socket.socket(fileno=number)).run()
