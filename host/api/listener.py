"""The listening sockets: takes connections off their queue, and never fails at one that it cannot take.

The loop's own servers leave to chance what comes of a process without descriptors: uvloop's stops listening for good
when the kernel has none, without a word.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Final

import structlog

from host.api.connection_counts import Refusal
from host.api.connections import Connections
from host.api.farewell import FULL, farewell
from host.identity.peers import UNKNOWN, counted_as

BACKLOG: Final = 128
"""Connections that wait in the kernel, which cost no descriptor."""
AT_ONCE: Final = 16
"""Connections that are taken before the loop does something else, so that a flood of them starves nobody."""
PAUSE: Final = 1.0
"""Seconds without taking any, where there is not even a descriptor to refuse them with."""
_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = structlog.get_logger(__name__)


class Listener:
    """Listens on every address of one host name.

    Args:
        connections: Gets what is accepted.
        host: A name or an address; empty for every address of this machine.
        port: 0 for one that is free.
    """

    def __init__(self, connections: Connections, host: str, port: int) -> None:
        self._connections = connections
        self._host = host
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._listening: list[socket.socket] = []
        self._spare = -1
        self._resume: asyncio.TimerHandle | None = None

    async def start(self) -> str:
        """Listen; the first address as a URL.

        Raises:
            OSError: an address is taken, or not this machine's.
        """
        self._spare = _descriptor()
        found = await self._loop.getaddrinfo(
            self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, address in dict.fromkeys(found):
            made = socket.create_server(address[:2], family=family, backlog=BACKLOG)
            self._listening.append(made)
            made.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        self._watch()
        host, port = self._listening[0].getsockname()[:2]
        return f"http://{host}:{port}"

    def stop(self) -> None:
        """Listen no more."""
        if self._resume is not None:
            self._resume.cancel()
        for listening in self._listening:
            self._loop.remove_reader(listening)
            listening.close()
        self._listening.clear()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def accept(self, listening: socket.socket) -> None:
        """Take what waits, and not too much at once."""
        for _ in range(AT_ONCE):
            try:
                accepted, peer = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _SCARCE:
                    self._shed(listening)
                    return
                continue  # the connection's own failure (accept(2)): it is off the queue
            try:
                self._take(accepted, counted_as(peer[0] if peer else None))
            except Exception:  # noqa: BLE001 - logged; this connection is lost, and those behind it are taken
                _log.exception("connection_not_taken")
                accepted.close()

    def _take(self, accepted: socket.socket, address: str) -> None:
        accepted.setblocking(False)  # noqa: FBT003 - as above
        admitted = self._connections.admit(address, accepted.fileno())
        if isinstance(admitted, Refusal):
            try:
                accepted.send(farewell(FULL))
            except OSError as error:
                _log.debug("farewell_not_sent", address=address, error=str(error))
            accepted.close()
            return
        self._connections.serve(admitted, accepted)

    def _shed(self, listening: socket.socket) -> None:
        """Refuse a connection for which there is no descriptor, with the one that is kept for this.

        Left in the queue, it would wake the loop again and again.
        """
        self._connections.refuse(Refusal.DESCRIPTORS, UNKNOWN)
        self._connections.make_room()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
        try:
            listening.accept()[0].close()
            self._spare = _descriptor()
        except OSError:  # somebody else was quicker, or the queue is empty by now
            self._pause()

    def _pause(self) -> None:
        for listening in self._listening:
            self._loop.remove_reader(listening)
        if self._resume is None:
            self._resume = self._loop.call_later(PAUSE, self._watch)

    def _watch(self) -> None:
        self._resume = None
        if self._spare < 0:
            try:
                self._spare = _descriptor()
            except OSError:
                self._pause()
                return
        for listening in self._listening:
            self._loop.add_reader(listening, self.accept, listening)


def _descriptor() -> int:
    """A descriptor that can be given up for another."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
