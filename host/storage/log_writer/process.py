"""The process that writes the log: a core with an interpreter of its own, so that nothing waits for the host's loop.

Its standard input is the socket to the host, and the only one it has. It takes a lock that is its own before it touches
the database, so no other writes while it lives, whoever was killed and started anew meanwhile. It ends when the socket
ends, and is killed when the host dies; what it was writing then is durable as a whole, or not at all.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
import sqlite3
import sys
import time
from pathlib import Path
from typing import Final

from host.storage.connection import LOCK_SUFFIX, connect
from host.storage.log_writer.frames import Ended, FrameError, Locked, Reader, Said, encode, framed
from host.storage.log_writer.serving import serve

LOCK_SECONDS: Final = 20.0
"""How long the writer of a host that was killed has to end: it may be waiting for its disk."""
LOCK_STEP: Final = 0.01
READ_BYTES: Final = 256 * 1024
_PDEATHSIG: Final = 1
_INHERITED: Final = 3
"""The first descriptor that is none of the three standard ones."""
_TOLD_TO_END: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Sent to the whole group by a terminal or a service manager: the host ends this process when it has written all."""


class SocketInbox:
    """Frames from a blocking socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = Reader()
        self._ready: bytes | None = None
        self._closed = False

    def wait(self, seconds: float | None) -> bool:
        """As `Inbox.wait`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._closed and self._fill() is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._connection], [], [], left)[0]:
                return False
            self._receive()
        return True

    def take(self) -> bytes | None:
        """As `Inbox.take`."""
        while not self._closed and self._fill() is None and select.select([self._connection], [], [], 0)[0]:
            self._receive()
        found, self._ready = self._fill(), None
        return found

    @property
    def ended(self) -> bool:
        """As `Inbox.ended`."""
        return self._closed and self._fill() is None

    def _fill(self) -> bytes | None:
        if self._ready is None:
            self._ready = self._reader.next()
        return self._ready

    def _receive(self) -> None:
        try:
            data = self._connection.recv(READ_BYTES)
        except ConnectionResetError:
            data = b""
        if data:
            self._reader.feed(data)
        else:
            self._closed = True


def lock(database: Path) -> bool:
    """Have the log of a database to oneself until this process ends; whether another one would not let go of it.

    Raises:
        OSError: the file to lock cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(database.with_name(database.name + LOCK_SUFFIX), flags, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(LOCK_STEP)
        else:
            return True


def main(database: str, parent: int) -> None:
    """Serve the socket that is the standard input, for the host whose process id is `parent`."""
    for number in _TOLD_TO_END:
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(ctypes.c_int(_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:
        return  # it died before that was set
    os.closerange(_INHERITED, os.sysconf("SC_OPEN_MAX"))  # what the host may have been given by whoever started it
    path = Path(database)
    connection = socket.socket(fileno=0)
    connection.setblocking(True)  # noqa: FBT003 - the socket module's own signature

    def say(said: Said) -> None:
        connection.sendall(framed(encode(said)))

    status = 1
    try:
        if lock(path):
            say(Locked(os.getpid()))
            serve(SocketInbox(connection), say, lambda: connect(path))
            status = 0
        else:
            say(Ended("another process still writes the log", busy=True))
    except (BrokenPipeError, ConnectionResetError):
        status = 0  # the host is gone
    except (FrameError, OSError, MemoryError, sqlite3.Error) as error:
        say(Ended(f"{type(error).__name__}: {error}"))
    sys.exit(status)
