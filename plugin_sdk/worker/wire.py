"""The wire between host and worker: length-prefixed MessagePack frames over a socket pair.

A frame is four bytes of big-endian length and a MessagePack array of messages. Either side may have many
calls in flight, and whatever is sent within one turn of the loop leaves as one frame: under load, most of the
cost of a call is shared by its neighbours.

A message is encoded by itself, when it is sent: one that cannot be carried is its sender's failure, and costs no
other message its place. What comes is held to the bounds of its type, whoever sent it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, cast

import msgspec
from msgspec import Meta

from plugin_sdk.calls import Flight, HookCall
from plugin_sdk.worker.wide_numbers import narrowed, widened

MAX_FRAME: Final = 5 * 2**20
"""Bytes of one frame; a larger one ends the connection. The largest message there is fits, with `MAX_PAYLOAD` in it."""
GROUPED: Final = 256 * 1024
"""Bytes of messages that share a frame: a frame is decoded in one go, which its reader's other work waits for."""
MAX_PAYLOAD: Final = 4 * 2**20
"""Bytes of one value inside a message: an event, an answer."""
MAX_MESSAGES: Final = 256
"""Messages that one frame carries."""
MAX_FLIGHT: Final = 128
"""Deliveries that go to a worker in one message, and that are answered in one."""
MAX_LINES: Final = 64
"""Log lines that one message carries."""
MAX_LINE: Final = 8192
"""Characters of a log line, or of a reason."""
MAX_TRACEBACK: Final = 16_384
MAX_NAME: Final = 256
"""Characters of a name: of an exception, a request, a part of the sandbox."""
MAX_LEVEL: Final = 16
MAX_DELIVERY: Final = 512
"""Characters of a delivery's id: plugin, subscription, and the place in the log."""
MAX_PARTS: Final = 32
MAX_WAIT: Final = 366 * 86_400.0
"""Seconds that a plugin can ask to be left alone for; what a subscription allows is less."""
LAST_INSTANT: Final = 253_402_300_799.0
"""The end of the year 9999, in seconds since the epoch: the last instant that can be written as a date."""
READ_BYTES: Final = 64 * 1024
"""What is read at once: a bound on the loop's time that one turn of reading may take."""
VERDICTS: Final = frozenset({"retry", "drop", "dead-letter"})
"""Kinds of `Raised` by which a healthy plugin decides on its delivery."""
_HEAD: Final = 4
_FIXED_ARRAY: Final = 16
"""MessagePack's arrays of fewer messages have their length in their first byte."""

Message = TypeVar("Message")
Number = Annotated[int, Meta(ge=0)]
Numbers = Annotated[list[Number], Meta(max_length=MAX_FLIGHT)]
Name = Annotated[str, Meta(max_length=MAX_NAME)]
Line = Annotated[str, Meta(max_length=MAX_LINE)]
Traceback = Annotated[str, Meta(max_length=MAX_TRACEBACK)]
Payload = Annotated[bytes, Meta(max_length=MAX_PAYLOAD)]
Seconds = Annotated[float, Meta(ge=0, le=MAX_WAIT)]
Instant = Annotated[float, Meta(ge=0, le=LAST_INSTANT)]
"""Neither infinite nor no number: both are out of the range."""


class ProtocolError(Exception):
    """The other side sent something that is no frame, or no message of this protocol."""


class UncarriableError(Exception):
    """A message cannot be sent: it holds what MessagePack has no form for, or is larger than a frame."""


# -- from the host to the worker


class Load(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Import the plugin and, where `start` is true, run its start hook; answered by `Ready` or `LoadFailed`."""

    plugin: str
    entry_point: str
    path: list[str]
    config: dict[str, Any]
    secrets: dict[str, str]
    start: bool
    heartbeat: float
    concurrency: int


class Call(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Enter a hook; answered by `Reply` or `Raised`."""

    id: int
    call: HookCall


class Deliver(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Make deliveries, as many at once as the plugin's concurrency allows, in their order: numbers from `first` on.

    Each has its place in the log, the number of its attempt, and the event as JSON. Each is answered by its number, in
    `Done`, by `Raised`, or in `Recalled`.
    """

    first: int
    flight: Flight
    deliveries: list[tuple[int, int, bytes]]


class GoOn(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Begin deliveries again, after one of them raised."""


class Recall(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Do not begin these deliveries, if they have not begun; then go on. Answered by `Recalled`."""

    ids: list[int]


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Cancel a call; nobody waits for it any more."""

    id: int


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The answer to an `Ask`: a value, or an error with the host's code."""

    id: int
    value: Any = None
    error: str = ""
    word: str = ""
    denied: bool = False


class Inspect(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Say what the plugin does; answered by `Reply` with a description."""

    id: int


class Validate(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Check a config against the plugin's model; answered by `Reply` or `Raised`."""

    id: int
    config: dict[str, Any]


class Shutdown(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """End the process."""


# -- from the worker to the host


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The plugin is loaded and, where asked, started."""


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The plugin could not be loaded or started: `name` is the exception's; `retryable` where another try may do."""

    name: Name
    message: Line
    traceback: Traceback
    retryable: bool


class Reply(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """What a hook returned, as JSON; None for nothing."""

    id: Number
    value: Payload | None = None


class Raised(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """What a hook raised, by its `kind`, with `name` the exception's or the code.

    Kinds are retry, drop, dead-letter, arguments (the caller's mistake), host and failure.
    """

    id: Number
    kind: Literal["retry", "drop", "dead-letter", "arguments", "host", "failure"]
    reason: Line
    after: Annotated[float, Meta(ge=0, le=MAX_WAIT)] | None = None
    name: Name = ""
    traceback: Traceback = ""
    seconds: Seconds = 0.0


class Done(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """These deliveries ended well, each after so many seconds from when it was begun."""

    ids: Numbers
    seconds: Annotated[list[Seconds], Meta(max_length=MAX_FLIGHT)]


class Recalled(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """These deliveries were not begun, and will not be."""

    ids: Numbers


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A request of the plugin to its host, answered by `Answer`: a method of `HostPort`, and its arguments encoded.

    They are decoded by the host when it knows of which types they must be.
    """

    id: Number
    operation: Name
    arguments: msgspec.Raw


class LogLine(msgspec.Struct, frozen=True, array_like=True):
    """One line of the plugin's log; `delivery` is empty outside of one."""

    at: Instant
    level: Annotated[str, Meta(max_length=MAX_LEVEL)]
    message: Line
    delivery: Annotated[str, Meta(max_length=MAX_DELIVERY)] = ""


class LogLines(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Lines of the plugin's log; `dropped` were too many to send."""

    lines: Annotated[list[LogLine], Meta(max_length=MAX_LINES)]
    dropped: Annotated[int, Meta(ge=0, le=2**32)] = 0


class Confined(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """The first message: what became of each part of the worker's sandbox."""

    parts: Annotated[dict[Name, Line], Meta(max_length=MAX_PARTS)]


class Modified(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """A file of the plugin is not what the host hashed; it was not imported."""

    message: Line


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """The worker's loop turns."""


ToWorker = Load | Call | Deliver | GoOn | Recall | Cancel | Answer | Inspect | Validate | Shutdown
FromWorker = Ready | LoadFailed | Reply | Raised | Done | Recalled | Ask | LogLines | Heartbeat | Confined | Modified


class Wire(asyncio.BufferedProtocol, Generic[Message]):
    """One end of the wire.

    Args:
        incoming: The union of messages that may come.
        received: Called with each message.
        lost: Called once when the connection is gone, with why, or None where the other side just ended it.
        descriptor: Of the connected socket, non-blocking; given where the loop's own writes are deferred.
        read_bytes: What is read at once.
        arrived: Called with how many bytes have come, at each reading, before they are looked at.

    Attributes:
        paused_at: The loop's time since when the other side has not read what was sent, or None.
    """

    def __init__(
        self,
        incoming: Any,
        received: Callable[[Message], None],
        lost: Callable[[Exception | None], None],
        descriptor: int | None = None,
        read_bytes: int = READ_BYTES,
        arrived: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._decoder: msgspec.msgpack.Decoder[list[Message]] = msgspec.msgpack.Decoder(
            Annotated[list[incoming], Meta(max_length=MAX_MESSAGES)], ext_hook=widened
        )
        self._encode = msgspec.msgpack.Encoder().encode
        self._received = received
        self._lost = lost
        self._arrived = arrived
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._chunk = bytearray(read_bytes)
        self._begun = bytearray()
        self._needed = 0
        self._outgoing: list[bytes] = []
        self._in_burst = False
        self._descriptor = descriptor
        self._failure: Exception | None = None
        self._held = False
        self.paused_at: float | None = None

    def send(self, message: Any) -> None:
        """Send a message; after the connection is gone, do nothing.

        The first message of a turn of the loop leaves at once, so that a single call waits for nothing; what
        is sent in the same turn after it leaves as one frame at the turn's end. What is sent while received
        messages are being handled leaves as one frame when they all are.

        Raises:
            UncarriableError: the message cannot be encoded, or is too large; nothing of it was sent.
        """
        encoded = self._encoded(message)
        if self._in_burst:
            self._outgoing.append(encoded)
            return
        self._in_burst = True
        self._loop.call_soon(self._end_burst)
        if self._transport is not None:
            self._write_now(self._transport, _frame([encoded]))

    def _encoded(self, message: Any) -> bytes:
        try:
            try:
                encoded = self._encode(message)
            except OverflowError:  # an integer beyond 64 bits, which JSON has and MessagePack has not
                encoded = self._encode(narrowed(message))
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UncarriableError(f"{type(message).__name__} cannot be sent: {error}") from None
        if len(encoded) > MAX_FRAME - _HEAD:
            raise UncarriableError(f"{type(message).__name__} has {len(encoded)} bytes; a frame has {MAX_FRAME}")
        return encoded

    def _write_now(self, transport: asyncio.Transport, frame: bytearray) -> None:
        """Write past the transport where nothing waits in it: uvloop's would hold the frame to the turn's end."""
        if self._descriptor is not None and transport.get_write_buffer_size() == 0:
            try:
                written = os.write(self._descriptor, frame)
            except BlockingIOError:
                written = 0
            except OSError:
                return  # the other side is gone; the transport is about to say so
            if written == len(frame):
                return
            del frame[:written]
        transport.write(frame)

    def _end_burst(self) -> None:
        self._in_burst = False
        self._flush()

    def flush(self) -> None:
        """Send now what waits for the next frame."""
        self._flush()

    def close(self) -> None:
        """Send what waits, then end the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._transport = None
        self._descriptor = None
        self._outgoing.clear()
        self._lost(self._failure or exc)

    def pause_writing(self) -> None:
        """Called by the loop when the other side reads too slowly."""
        self.paused_at = self._loop.time()

    def resume_writing(self) -> None:
        """Called by the loop when it has caught up."""
        self.paused_at = None

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - the protocol's own signature
        """Called by the loop: where to put what it reads."""
        return self._chunk

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop: decode every whole frame; the rest of one that has begun waits for more."""
        self._arrived(nbytes)
        if not self._begun:
            self._take(self._chunk, nbytes)
            return
        self._begun += memoryview(self._chunk)[:nbytes]
        if len(self._begun) >= self._needed:
            begun, self._begun = self._begun, bytearray()
            self._take(begun, len(begun))

    def _take(self, data: bytearray, end: int) -> None:
        at = 0
        handling, self._in_burst = self._in_burst, True
        self._needed = _HEAD
        view = memoryview(data)
        try:
            while end - at >= _HEAD and not self._held:
                size = int.from_bytes(view[at : at + _HEAD], "big")
                if size > MAX_FRAME:
                    raise ProtocolError(f"a frame of {size} bytes; at most {MAX_FRAME} are taken")
                if end - at - _HEAD < size:
                    self._needed = _HEAD + size
                    break
                for message in self._decoded(view[at + _HEAD : at + _HEAD + size]):
                    self._received(message)
                at += _HEAD + size
        except ProtocolError as error:
            self.fail(str(error))
            return
        finally:
            self._in_burst = handling
        if not handling:
            self._flush()
        if at < end:
            self._begun += view[at:end]

    def _decoded(self, frame: memoryview) -> list[Message]:
        try:
            return self._decoder.decode(frame)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # text that is no UTF-8 is a ValueError
            raise ProtocolError(str(error)) from None

    def fail(self, why: str) -> None:
        """End the connection at once, with this as the reason."""
        self._failure = self._failure or ProtocolError(why)
        if self._transport is not None:
            self._transport.abort()

    def hold(self) -> None:
        """Take nothing more from the other side for now, not even what has arrived already."""
        self._held = True
        if self._transport is not None:
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Go on where `hold` stopped."""
        self._held = False
        begun, self._begun = self._begun, bytearray()
        self._take(begun, len(begun))
        if self._transport is not None and not self._held:
            self._transport.resume_reading()

    def _flush(self) -> None:
        outgoing = self._outgoing
        if not outgoing:
            return
        self._outgoing = []
        if self._transport is None:
            return
        first = size = 0
        for at, encoded in enumerate(outgoing):
            size += len(encoded)
            if at - first == MAX_MESSAGES or (at > first and size > GROUPED):
                self._transport.write(_frame(outgoing[first:at]))
                first, size = at, len(encoded)
        self._transport.write(_frame(outgoing[first:]))


def _frame(messages: list[bytes]) -> bytearray:
    """A frame of messages that are encoded already."""
    count = len(messages)
    head = bytes((0x90 | count,)) if count < _FIXED_ARRAY else b"\xdc" + count.to_bytes(2, "big")
    payload = b"".join((head, *messages))
    return bytearray(len(payload).to_bytes(_HEAD, "big") + payload)
