"""The host's end of a core: one in a thread of this process, or one in a process of its own.

Both take the same frames. What a link hears of its core it tells on the loop, in order; that the core has ended comes
last, when everything that it said before was heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

import host
from host.storage.connection import connect
from host.storage.errors import LogWriterError, StateBusyError
from host.storage.log_writer.frames import Ended, FrameError, Locked, Reader, Said, framed, read_said
from host.storage.log_writer.process import LOCK_SECONDS
from host.storage.log_writer.serving import serve

START_SECONDS: Final = 10.0
"""How long a process has to be there, beside what it may wait for the lock."""
END_SECONDS: Final = 20.0
"""How long a core has to end once it was told to: it may be waiting for its disk."""
READ_BYTES: Final = 256 * 1024
SOCKET_BYTES: Final = 1 << 20

# -I: no environment, no user site, no current directory; -S: no site, so no .pth runs; -B: no bytecode written.
_BOOT: Final = (
    "import sys; sys.path[:0] = sys.argv[3:]; "
    "from host.storage.log_writer.process import main; main(sys.argv[1], int(sys.argv[2]))"
)
_IMPORTED: Final = (Path(host.__file__).parents[1], Path(msgspec.__file__).parents[1])
"""All that it imports from: the host, and the one library that it needs."""

_log = structlog.get_logger(__name__)


class Link(Protocol):
    """A way to a core.

    Attributes:
        heard: Called with everything that it says.
        lost: Called once it has ended without being asked to, with what is known of why.
    """

    heard: Callable[[Said], None]
    lost: Callable[[str], None]

    @property
    def pid(self) -> int | None:
        """The process that it lives in, where that is one of its own and runs."""
        ...

    async def start(self) -> None:
        """Start a core, which has the log to itself when this returns; one that was lost may be started again.

        Raises:
            StateBusyError: another process has the log, and does not let go of it.
            LogWriterError: it could not be started.
        """
        ...

    def send(self, payload: bytes) -> None:
        """Send it an order. Never waits; what is sent to one that is lost is lost, too."""
        ...

    async def stop(self) -> None:
        """Have it execute what was sent, and end; stopping again does nothing."""
        ...


def _unheard(_: object) -> None:
    """Before somebody listens there is nothing to hear."""


class ThreadLink:
    """A core in a thread of this process: for small hosts and tests, which have nobody that they could be held up by.

    It takes no lock: whoever opens the database has the state folder to itself.

    Args:
        open_connection: Opens the core's connection; called in its thread.
    """

    def __init__(self, open_connection: Callable[[], sqlite3.Connection]) -> None:
        self.heard: Callable[[Said], None] = _unheard
        self.lost: Callable[[str], None] = _unheard
        self._connect = open_connection
        self._inbox: QueueInbox | None = None
        self._ended = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """It lives in this one."""
        return None

    async def start(self) -> None:
        """Start the thread."""
        self._inbox = QueueInbox()
        self._ended.clear()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._main, args=(loop, self._inbox), name="log writer", daemon=True).start()

    def send(self, payload: bytes) -> None:
        """As `Link.send`."""
        if self._inbox is not None:
            self._inbox.put(payload)

    async def stop(self) -> None:
        """As `Link.stop`."""
        if self._inbox is not None:
            self.lost = _unheard
            self._inbox.put(None)
            await self._ended.wait()

    def _main(self, loop: asyncio.AbstractEventLoop, inbox: QueueInbox) -> None:
        def say(said: Said) -> None:
            loop.call_soon_threadsafe(self.heard, said)

        reason = "it was told to"
        try:
            serve(inbox, say, self._connect)
        except Exception as error:  # noqa: BLE001 - told to whoever waits for its answers
            reason = f"{type(error).__name__}: {error}"
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(self._end, reason)

    def _end(self, reason: str) -> None:
        self._inbox = None
        self._ended.set()
        self.lost(reason)


class QueueInbox:
    """Frames from another thread; None is the end."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._ready: bytes | None = None
        self._closed = False

    def put(self, payload: bytes | None) -> None:
        """Hand over a frame."""
        self._queue.put(payload)

    def wait(self, seconds: float | None) -> bool:
        """As `Inbox.wait`."""
        if self._ready is None and not self._closed:
            try:
                self._got(self._queue.get(timeout=seconds))
            except queue.Empty:
                return False
        return True

    def take(self) -> bytes | None:
        """As `Inbox.take`."""
        if self._ready is None and not self._closed:
            with contextlib.suppress(queue.Empty):
                self._got(self._queue.get_nowait())
        found, self._ready = self._ready, None
        return found

    @property
    def ended(self) -> bool:
        """As `Inbox.ended`."""
        return self._closed and self._ready is None

    def _got(self, payload: bytes | None) -> None:
        self._ready = payload
        self._closed = payload is None


class ProcessLink:
    """A core in a process of its own, which is given a socket and nothing else.

    Args:
        database: Absolute path of the database.
    """

    def __init__(self, database: Path) -> None:
        self.heard: Callable[[Said], None] = _unheard
        self.lost: Callable[[str], None] = _unheard
        self._database = database
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self._reader = Reader()
        self._unsent = bytearray()
        self._writes = False
        self._words: Ended | None = None
        self._locked: asyncio.Future[None] | None = None

    @property
    def pid(self) -> int | None:
        """As `Link.pid`."""
        return None if self._process is None or self._socket is None else self._process.pid

    async def prepare(self) -> None:
        """Start the process, and do not wait for it: `start` does.

        Call it on the loop's own thread: the process is killed when the thread that started it ends.

        Raises:
            LogWriterError: it could not be started.
        """
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        mine.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        for one in (mine, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                one.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", "-B", "-c", _BOOT, str(self._database), str(os.getpid()), *map(str, _IMPORTED)),
                stdin=theirs.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                env={},
                cwd="/",
            )
        except OSError as error:
            mine.close()
            raise LogWriterError(f"the log's writer cannot be started: {error}") from None
        finally:
            theirs.close()
        self._reader, self._words = Reader(), None
        self._unsent.clear()
        self._process, self._socket = process, mine
        self._locked = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(mine.fileno(), self._readable)

    async def start(self) -> None:
        """As `Link.start`."""
        if self._socket is None:
            await self._bury()
            await self.prepare()
        if self._locked is None:
            raise LogWriterError("the log's writer was not prepared")
        try:
            async with asyncio.timeout(START_SECONDS + LOCK_SECONDS):
                await self._locked
        except TimeoutError:
            await self._kill()
            raise LogWriterError("the log's writer was not there in time") from None
        except BaseException:  # raised again; it is ours to end
            await self._kill()
            raise
        _log.info("log_writer_started", pid=self.pid)

    def send(self, payload: bytes) -> None:
        """As `Link.send`."""
        if self._socket is None:
            return
        data = framed(payload)
        if not self._unsent:
            data = data[self._send(data) :]
        if data:
            self._unsent += data
            self._want_to_write()

    async def stop(self) -> None:
        """As `Link.stop`; one that does not end in its time is killed: what it was asked, it has answered."""
        self.lost = _unheard
        if self._socket is not None and self._process is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await self._process.wait()
        await self._kill()

    # -- inside

    async def _kill(self) -> None:
        self._close()
        await self._bury()

    async def _bury(self) -> None:
        """Make sure that the process is no more; it may be waiting for a disk, and holds the log until then."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    def _close(self) -> None:
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            if self._writes:
                loop.remove_writer(self._socket.fileno())
                self._writes = False
            self._socket.close()
            self._socket = None
        if self._locked is not None and not self._locked.done():
            self._locked.cancel()

    def _send(self, data: bytes | bytearray) -> int:
        if self._socket is None:
            return len(data)
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # it is gone: the reader hears of it, and of what it said before

    def _want_to_write(self) -> None:
        if self._socket is not None and not self._writes:
            self._writes = True
            asyncio.get_running_loop().add_writer(self._socket.fileno(), self._writable)

    def _writable(self) -> None:
        del self._unsent[: self._send(self._unsent)]
        if not self._unsent and self._socket is not None and self._writes:
            self._writes = False
            asyncio.get_running_loop().remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end("its connection ended")
            return
        self._reader.feed(data)
        try:
            while (payload := self._reader.next()) is not None:
                self._told(read_said(payload))
        except (FrameError, msgspec.MsgspecError) as error:
            self._end(f"it said what is no frame: {error}")

    def _told(self, said: Said) -> None:
        if isinstance(said, Ended):
            self._words = said
        elif not isinstance(said, Locked):
            self.heard(said)
        elif self._locked is not None and not self._locked.done():
            self._locked.set_result(None)

    def _end(self, reason: str) -> None:
        """It is gone, or has to go: `start` makes sure of that before another one has the log."""
        words = self._words
        said = reason if words is None else words.reason
        if self._locked is not None and not self._locked.done():
            busy = words is not None and words.busy
            error = StateBusyError(f"{self._database}: {said}; stop it") if busy else None
            self._locked.set_exception(error or LogWriterError(f"the log's writer did not start: {said}"))
            self._locked.exception()  # whoever starts it may have gone meanwhile
        self._close()
        self.lost(said)


def thread_link(database: Path) -> ThreadLink:
    """A core in a thread, over a database."""
    return ThreadLink(lambda: connect(database))
