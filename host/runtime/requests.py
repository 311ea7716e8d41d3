"""What one worker asks of its host, served within bounds: so many at once, so many bytes, so many a second.

The first requests above a rate are answered late, which slows an honest plugin down to what it may do; a flood
is answered late and with an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from plugin_sdk.context import HostPort
from plugin_sdk.errors import HostError, InvalidEventError, PermissionDeniedError
from plugin_sdk.resilience import TokenBucket
from plugin_sdk.worker.wire import MAX_PAYLOAD, Answer, Ask

MAX_ASKS: Final = 128
"""Requests of a worker that may be open; the SDK keeps to half of it, so one more is an attack."""
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
}
"""What a worker may ask for: the methods of `HostPort`, with the types of their arguments."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RequestRates:
    """Requests a second: all of a plugin's, and of those the events it emits and the keys it writes."""

    requests: float = 1000.0
    emits: float = 500.0
    writes: float = 500.0


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
    ) -> None:
        self._plugin = plugin
        self._port = port
        self._answer = answer
        self._broken = broken
        self._full = full
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0
        every, emits, writes = (
            TokenBucket(rate, BURST_SECONDS * rate, now) for rate in (rates.requests, rates.emits, rates.writes)
        )
        self._buckets: dict[str, tuple[TokenBucket, ...]] = dict.fromkeys(_OPERATIONS, (every,))
        self._buckets |= {"emit": (every, emits), "kv_set": (every, writes), "kv_delete": (every, writes)}

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
        if len(self._tasks) >= MAX_ASKS:
            self._broken(f"over {MAX_ASKS} requests at once")
            return
        try:
            arguments = decoder.decode(message.arguments)
        except msgspec.MsgspecError as error:
            self._broken(f"'{message.operation}' with wrong arguments: {error}")
            return
        self._bytes += size
        if self._bytes > MAX_OPEN_BYTES >= self._bytes - size:
            self._full(True)  # noqa: FBT003 - a callback's only argument
        task = asyncio.get_running_loop().create_task(
            self._serve(message.id, message.operation, arguments, size), name=f"request of {self._plugin}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Give up what is open: nobody is there to hear the answers."""
        for task in tuple(self._tasks):
            task.cancel()

    async def _serve(self, number: int, operation: str, arguments: tuple[Any, ...], size: int) -> None:
        try:
            await self._pace(operation)
            if self._port is None:
                raise PermissionDeniedError("nothing is granted while a plugin is only looked at")
            value = await getattr(self._port, operation)(*arguments)
            answer = Answer(number, value)
        except HostError as error:
            denied = isinstance(error, PermissionDeniedError)
            answer = Answer(number, None, str(error) or error.word, error.word, denied)
        except InvalidEventError as error:
            answer = Answer(number, None, str(error), error.code)
        except Exception:  # noqa: BLE001 - a failing request must not end the others; logged with its traceback
            _log.exception("request_failed", plugin=self._plugin, operation=operation)
            answer = Answer(number, None, "the host failed at this; its log says how", "internal_error")
        finally:
            self._bytes -= size
            if self._bytes <= MAX_OPEN_BYTES < self._bytes + size:
                self._full(False)  # noqa: FBT003 - as above
        self._answer(answer)

    async def _pace(self, operation: str) -> None:
        for bucket in self._buckets[operation]:
            wait = bucket.reserve(LONGEST_WAIT)
            if wait:
                await asyncio.sleep(wait)
            elif wait is None:
                await asyncio.sleep(LONGEST_WAIT)  # a refusal at once would only be asked again at once
                raise HostError(
                    f"{self._plugin} asks for '{operation}' more than {bucket.rate:g} times a second: "
                    "send less, or send it later",
                    "rate_limited",
                )
