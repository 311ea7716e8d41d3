"""The way between the host and one HTTP process: messages in order, sockets beside them.

A stream of frames over a socket pair: four bytes of length, then a message. What the kernel does not take waits here;
how much that may be, the sender asks before it says more.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
import structlog

from host.api.processes.wire import WITH_SOCKET

MAX_FRAME: Final = 32 * 2**20
"""Bytes of one message: the largest event several times over."""
READ_BYTES: Final = 256 * 1024
READS_A_TURN: Final = 4
"""Reads before the loop does something else."""
SOCKETS_A_READ: Final = 64
_LENGTH: Final = 4

_log = structlog.get_logger(__name__)
Message = TypeVar("Message")


class Send(Protocol):
    """Says something to the other end."""

    def __call__(self, message: Any, beside: int = -1) -> None:
        """As `Channel.send`."""
        ...


class Channel(Generic[Message]):
    """One end of the way.

    Args:
        connection: This end's socket; closed with the channel.
        decoder: Of the messages that come.
        take: Called with each message, and the socket beside it where there is one.
        lost: Called once, when the other end is gone or says what cannot be read.
    """

    def __init__(
        self,
        connection: socket.socket,
        decoder: msgspec.msgpack.Decoder[Message],
        take: Callable[[Message, socket.socket | None], None],
        lost: Callable[[], None],
    ) -> None:
        connection.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        self._socket = connection
        self._decode = decoder.decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._take = take
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._came = bytearray()
        self._sockets: deque[int] = deque()
        self._waiting: deque[tuple[memoryview, int]] = deque()
        self._closed = False
        self._nothing_waits = asyncio.Event()
        self._nothing_waits.set()
        self.waiting_bytes = 0
        """What the kernel has not taken yet."""

    def start(self) -> None:
        """Read from here on."""
        self._loop.add_reader(self._socket, self._readable)

    @property
    def closed(self) -> bool:
        """Whether nothing can be said any more."""
        return self._closed

    def send(self, message: Any, beside: int = -1) -> None:
        """Say something; to a channel that is closed, nothing.

        Args:
            message: One of the messages.
            beside: The descriptor of a socket that travels with it; a copy is sent.
        """
        if self._closed:
            return
        body = self._encode(message)
        frame = memoryview(len(body).to_bytes(_LENGTH, "big") + body)
        copy = os.dup(beside) if beside >= 0 else -1
        if not self._waiting:
            frame, copy = self._write(frame, copy)
            if not frame:
                return
            self._loop.add_writer(self._socket, self._writable)
            self._nothing_waits.clear()
        self._waiting.append((frame, copy))
        self.waiting_bytes += len(frame)

    def close(self) -> None:
        """End it, and whatever waits in it."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for _, copy in self._waiting:
            if copy >= 0:
                os.close(copy)
        for number in self._sockets:
            os.close(number)
        self._waiting.clear()
        self._sockets.clear()
        self._nothing_waits.set()

    async def flushed(self) -> None:
        """Wait until the kernel has taken all that was said, or nothing can be said any more."""
        await self._nothing_waits.wait()

    def _write(self, frame: memoryview, copy: int) -> tuple[memoryview, int]:
        """Have the kernel take what it takes; what is left of the frame, and of the socket beside it."""
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (copy,)))] if copy >= 0 else []
        try:
            sent = self._socket.sendmsg((frame,), beside)
        except (BlockingIOError, InterruptedError):
            return frame, copy
        except OSError as error:
            _log.debug("channel_not_writable", error=str(error))
            if copy >= 0:
                os.close(copy)
            self._end()
            return memoryview(b""), -1
        if copy >= 0:  # it goes with the first byte
            os.close(copy)
        return frame[sent:], -1

    def _writable(self) -> None:
        while self._waiting and not self._closed:
            frame, copy = self._waiting[0]
            left, copy = self._write(frame, copy)
            if self._closed:
                return
            self.waiting_bytes -= len(frame) - len(left)
            if left:
                self._waiting[0] = (left, copy)
                return
            self._waiting.popleft()
        self._loop.remove_writer(self._socket)
        self._nothing_waits.set()

    def _readable(self) -> None:
        for _ in range(READS_A_TURN):
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(READ_BYTES, socket.CMSG_SPACE(4 * SOCKETS_A_READ))
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                _log.debug("channel_not_readable", error=str(error))
                data, ancillary, flags = b"", [], 0
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    numbers = array.array("i")
                    numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                    self._sockets.extend(numbers)
            if not data or flags & socket.MSG_CTRUNC:
                # Without a descriptor for a socket that came, which message it belongs to cannot be told any more.
                self._end()
                return
            self._came += data
            self._take_frames()
            if self._closed or len(data) < READ_BYTES:
                return

    def _take_frames(self) -> None:
        at, came = 0, self._came
        while len(came) - at >= _LENGTH:
            end = at + _LENGTH + int.from_bytes(came[at : at + _LENGTH], "big")
            if end - at > MAX_FRAME:
                self._end()
                return
            if len(came) < end:
                break
            try:
                message = self._decode(bytes(came[at + _LENGTH : end]))
                beside = socket.socket(fileno=self._sockets.popleft()) if isinstance(message, WITH_SOCKET) else None
            except (msgspec.MsgspecError, IndexError, OSError):
                _log.exception("channel_not_understood")
                self._end()
                return
            at = end
            self._take(message, beside)
            if self._closed:
                return
        del came[:at]

    def _end(self) -> None:
        if not self._closed:
            self.close()
            self._lost()
