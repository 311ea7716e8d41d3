"""What one worker asks of its host, served within bounds: so many at once, so many and so many bytes a second.

The first requests above a rate are answered late, which slows an honest plugin down to what it may do; a flood
is answered late and with an error. While a worker does not read its answers, none is made.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from host.errors import MAX_SENTENCE, shortened
from plugin_sdk.context import HostPort
from plugin_sdk.errors import HostError, InvalidEventError, PermissionDeniedError
from plugin_sdk.resilience import TokenBucket
from plugin_sdk.worker.wire import MAX_PAYLOAD, Answer, Ask

MAX_ASKS: Final = 128
"""Requests of a worker that may be open; the SDK keeps to half of it, so one more is an attack."""
MAX_SERVED: Final = 16
"""Requests of a worker that are served at a time; the others wait, so that none takes the loop for long."""
SERVED_BYTES: Final = 32.0 * 2**20
"""Bytes of a worker's requests that are served in a second: a megabyte costs the loop some milliseconds, and the event
log's commit as many. It is four times what may be written in the long run."""
AT_ONCE_SECONDS: Final = 0.016
"""What may be served before it is paid for, in seconds of `SERVED_BYTES` and of twice the rate of what is written. What
has gone beyond is paid for in full before the next begins: a flood is then a few large commits with time for others
between them, instead of one small commit after the other."""
MAX_CALLS: Final = 16
"""Calls of a worker to other plugins that are under way; the others wait. Each may be answered with `MAX_PAYLOAD`
bytes, which are kept until the worker has read them."""
UNREAD_SECONDS: Final = 0.05
"""How often it is looked whether a worker that leaves answers unread has read them; no request is served before."""
MAX_OPEN_BYTES: Final = 16 * 2**20
"""Bytes of all open requests; above it, nothing is read from the worker until some are answered."""
LONGEST_WAIT: Final = 0.1
"""Seconds by which a request above the rate is answered late; one that would wait longer is refused then. A plugin
that asks for one thing after another is only ever slowed down; one that has the SDK's 64 open is refused."""
BURST_SECONDS: Final = 0.2
"""A rate's requests that may come at once, in seconds of it."""

_OPERATIONS: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    "emit": msgspec.msgpack.Decoder(tuple[bytes]),
    "kv_get": msgspec.msgpack.Decoder(tuple[str]),
    "kv_set": msgspec.msgpack.Decoder(tuple[str, bytes]),
    "kv_delete": msgspec.msgpack.Decoder(tuple[str]),
    "kv_list": msgspec.msgpack.Decoder(tuple[str, str, int]),
    "extend": msgspec.msgpack.Decoder(tuple[str]),
    "call": msgspec.msgpack.Decoder(tuple[str, bytes, float, list[str], str]),
}
"""What a worker may ask for: the methods of `HostPort`, with the types of their arguments."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RequestRates:
    """What a plugin may ask for in a second: requests in all, and of those events and written keys, and their bytes."""

    requests: float = 1000.0
    emits: float = 500.0
    writes: float = 500.0
    emit_bytes: float = 8.0 * 2**20
    write_bytes: float = 8.0 * 2**20


@dataclass(frozen=True, slots=True)
class _Request:
    number: int
    operation: str
    arguments: tuple[Any, ...]
    size: int


class Requests:
    """Serves the requests of one worker.

    Args:
        plugin: Whose they are.
        port: Does what is asked; None refuses everything.
        rates: How many a second.
        now: The time for the rates, in seconds.
        answer: Takes each answer.
        broken: Called with why, where the worker does not keep to the protocol.
        full: Called with whether more bytes are open than may be, when that changes.
        unread: Whether the worker leaves unread what was sent to it; it gets no further answers then.
    """

    def __init__(
        self,
        plugin: str,
        port: HostPort | None,
        rates: RequestRates,
        *,
        now: Callable[[], float],
        answer: Callable[[Answer], None],
        broken: Callable[[str], None],
        full: Callable[[bool], None],
        unread: Callable[[], bool] = lambda: False,
    ) -> None:
        self._plugin = plugin
        self._port = port
        self._answer = answer
        self._broken = broken
        self._full = full
        self._unread = unread
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()
        # Both hold open requests only, of which there are `MAX_ASKS`.
        self._waiting: deque[_Request] = deque()
        self._waiting_calls: deque[_Request] = deque()
        self._looking = False
        self._costs = {
            "emit": 0.5 / rates.emits,
            **dict.fromkeys(("kv_set", "kv_delete"), 0.5 / rates.writes),
        }
        self._paid_at = 0.0
        self._paying = False
        self._closed = False
        self._open = 0
        self._bytes = 0
        every, emits, writes = (
            TokenBucket(rate, BURST_SECONDS * rate, now) for rate in (rates.requests, rates.emits, rates.writes)
        )
        self._buckets: dict[str, tuple[TokenBucket, ...]] = dict.fromkeys(_OPERATIONS, (every,))
        self._buckets |= {"emit": (every, emits), "kv_set": (every, writes), "kv_delete": (every, writes)}
        # The largest request there is must fit into what may come at once, or it would never be taken.
        emitted, written = (
            TokenBucket(rate, max(BURST_SECONDS * rate, MAX_PAYLOAD), now)
            for rate in (rates.emit_bytes, rates.write_bytes)
        )
        self._byte_buckets = {"emit": emitted, "kv_set": written}

    def take(self, message: Ask) -> None:
        """Serve a request; its answer comes later."""
        decoder = _OPERATIONS.get(message.operation)
        size = len(memoryview(message.arguments))
        if decoder is None:
            self._broken(f"there is no request '{message.operation[:64]}'")
            return
        if size > MAX_PAYLOAD:
            self._broken(f"'{message.operation}' with {size} bytes; at most {MAX_PAYLOAD} are taken")
            return
        if self._open >= MAX_ASKS:
            self._broken(f"over {MAX_ASKS} requests at once")
            return
        try:
            arguments = decoder.decode(message.arguments)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._broken(f"'{message.operation}' with wrong arguments: {error}")
            return
        request = _Request(message.id, message.operation, arguments, size)
        self._open += 1
        self._bytes += size
        if self._bytes > MAX_OPEN_BYTES >= self._bytes - size:
            self._full(True)  # noqa: FBT003 - a callback's only argument
        wait, refused = self._reserve(message.operation, size)
        later = asyncio.get_running_loop().call_later
        if refused:
            later(LONGEST_WAIT, self._refuse, request, refused)  # at once, it would only be asked again at once
        elif wait:
            later(wait, self._queue, request)
        else:
            self._queue(request)

    def close(self) -> None:
        """Give up what is open: nobody is there to hear the answers."""
        self._closed = True
        self._waiting.clear()
        self._waiting_calls.clear()
        for task in (*self._tasks, *self._calls):
            task.cancel()

    def _reserve(self, operation: str, size: int) -> tuple[float, str]:
        """The seconds that a request has to wait for its turn; or the rate that it exceeds, in words."""
        longest = 0.0
        for bucket in self._buckets[operation]:
            wait = bucket.reserve(LONGEST_WAIT)
            if wait is None:
                return 0.0, f"asks for '{operation}' more than {bucket.rate:g} times a second"
            longest = max(longest, wait)
        weighed = self._byte_buckets.get(operation)
        if weighed is not None:
            wait = weighed.reserve(LONGEST_WAIT, size)
            if wait is None:
                return 0.0, f"asks for '{operation}' with more than {weighed.rate:.0f} bytes a second"
            longest = max(longest, wait)
        return longest, ""

    def _refuse(self, request: _Request, refused: str) -> None:
        sentence = f"{self._plugin} {refused}: send less, or send it later"
        self._finish(request, Answer(request.number, None, sentence, "rate_limited"))

    def _queue(self, request: _Request) -> None:
        if self._closed:
            return
        # A call waits for another plugin, not for the host: what the plugin asks of the host must not queue behind.
        (self._waiting_calls if request.operation == "call" else self._waiting).append(request)
        self._serve_next()

    def _serve_next(self) -> None:
        if self._unread():
            self._look_again(UNREAD_SECONDS)
            return
        wait = 0.0
        while self._waiting and len(self._tasks) < MAX_SERVED and not (wait := self._owed()):
            self._begin(self._waiting.popleft(), self._tasks)
        while self._waiting_calls and len(self._calls) < MAX_CALLS and not (wait := self._owed()):
            self._begin(self._waiting_calls.popleft(), self._calls)
        if wait:
            self._look_again(wait)

    def _owed(self) -> float:
        """Seconds until the next request may be served, for what those before it have cost."""
        ahead = self._paid_at - asyncio.get_running_loop().time()
        self._paying = ahead > (0.0 if self._paying else AT_ONCE_SECONDS)
        return ahead if self._paying else 0.0

    def _look_again(self, wait: float) -> None:
        if not self._looking and not self._closed and (self._waiting or self._waiting_calls):
            self._looking = True
            asyncio.get_running_loop().call_later(wait, self._looked)

    def _looked(self) -> None:
        self._looking = False
        self._serve_next()

    def _begin(self, request: _Request, tasks: set[asyncio.Task[None]]) -> None:
        serving, loop = self._serve(request), asyncio.get_running_loop()
        cost = max(request.size / SERVED_BYTES, self._costs.get(request.operation, 0.0))
        self._paid_at = max(self._paid_at, loop.time()) + cost
        task = loop.create_task(serving, name=f"request of {self._plugin}")
        tasks.add(task)
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._calls.discard(task)
        self._serve_next()

    async def _serve(self, request: _Request) -> None:
        number = request.number
        try:
            if self._port is None:
                raise PermissionDeniedError("nothing is granted while a plugin is only looked at")
            value = await getattr(self._port, request.operation)(*request.arguments)
            answer = Answer(number, value)
        except HostError as error:
            denied = isinstance(error, PermissionDeniedError)
            answer = Answer(number, None, shortened(str(error), MAX_SENTENCE) or error.word, error.word, denied)
        except InvalidEventError as error:
            answer = Answer(number, None, shortened(str(error), MAX_SENTENCE), error.code)
        except Exception:  # noqa: BLE001 - a failing request must not end the others; logged with its traceback
            _log.exception("request_failed", plugin=self._plugin, operation=request.operation)
            answer = Answer(number, None, "the host failed at this; its log says how", "internal_error")
        self._finish(request, answer)

    def _finish(self, request: _Request, answer: Answer) -> None:
        self._open -= 1
        self._bytes -= request.size
        if self._bytes <= MAX_OPEN_BYTES < self._bytes + request.size:
            self._full(False)  # noqa: FBT003 - as above
        if not self._closed:
            self._answer(answer)
