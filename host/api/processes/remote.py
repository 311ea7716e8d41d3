"""An HTTP process's way to the host: events to append, refusals to note, tokens to go by, and what it counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from host.api.connection_counts import Cut
from host.api.processes.channel import Send
from host.api.processes.wire import Counted, Denied, Failed, Note, Publish, Published, Taken
from host.api.refusals import Refused
from host.errors import BusbarError, ErrorKind
from host.observe.metrics import RequestCounts
from host.routing.event_log import Appended
from host.storage.errors import StorageBusyError
from plugin_sdk.events import Event

MAX_WAITING: Final = 16 * 2**20
"""Bytes of events that the host was asked to append and has not answered yet; beyond them clients are told to wait."""
MESSAGE_BYTES: Final = 512 * 1024
MESSAGE_EVENTS: Final = 256
"""What one message has of events, give or take one: as much as the host's loop may be busy with at a time."""
BUSY_SECONDS: Final = 1.0
TELL_EVERY: Final = 0.02
"""Seconds at most between a request and its count at the host."""


class DeniedError(BusbarError):
    """An error that the host met, as it was there."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(denied.message, retry_after=denied.retry_after, code=denied.code)
        # Its sentences were made fit to be shown when it was raised.
        self.message, self.errors = denied.message, denied.errors
        setattr(self, "kind", ErrorKind(denied.kind))  # noqa: B010 - of this one, where a class has it of all


class HostFailedError(Exception):
    """The host failed at an event, and its log has why; to the client it is as if this process had failed at it."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One event on its way."""

    body: bytes
    answer: asyncio.Future[Appended | BusbarError | HostFailedError]


class RemoteBus:
    """Has the host publish. What comes within one turn of the loop travels together.

    Args:
        send: Says something to the host.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._next: list[_Asked] = []
        self._asked: dict[int, list[_Asked]] = {}
        self._number = 0
        self._bytes = 0

    async def publish(self, event: Event) -> Appended:
        """As `Bus.publish`.

        Raises:
            StorageBusyError: more waits for the host than may.
        """
        found = await self._ask(event)
        if isinstance(found, Appended):
            return found
        raise found

    async def publish_many(self, events: Sequence[Event]) -> list[Appended | BusbarError]:
        """As `Bus.publish_many`."""
        answers: list[Appended | BusbarError] = []
        for one in [self._begin(event) for event in events]:
            found = one if isinstance(one, BusbarError) else await one
            if isinstance(found, HostFailedError):
                raise found
            answers.append(found)
        return answers

    def answered(self, message: Published) -> None:
        """The host says what became of the events of a message."""
        for asked, result in zip(self._asked.pop(message.number), message.results, strict=True):
            self._bytes -= len(asked.body)
            if not asked.answer.done():
                asked.answer.set_result(_result(result))

    def _begin(self, event: Event) -> asyncio.Future[Appended | BusbarError | HostFailedError] | BusbarError:
        try:
            return self._ask(event)
        except BusbarError as error:
            return error

    def _ask(self, event: Event) -> asyncio.Future[Appended | BusbarError | HostFailedError]:
        body = event.to_json()
        if self._bytes and self._bytes + len(body) > MAX_WAITING:
            raise StorageBusyError(
                "too many events wait to be written: try again in a moment", retry_after=BUSY_SECONDS
            )
        if not self._next:
            self._loop.call_soon(self._flush)
        self._bytes += len(body)
        asked = _Asked(body, self._loop.create_future())
        self._next.append(asked)
        return asked.answer

    def _flush(self) -> None:
        waiting, self._next = self._next, []
        at = 0
        while at < len(waiting):
            first, size = at, 0
            while at < len(waiting) and at - first < MESSAGE_EVENTS and size < MESSAGE_BYTES:
                size += len(waiting[at].body)
                at += 1
            self._number += 1
            self._asked[self._number] = waiting[first:at]
            self._send(Publish(self._number, [one.body for one in waiting[first:at]]))


def _result(result: Taken | Denied | Failed) -> Appended | BusbarError | HostFailedError:
    if isinstance(result, Taken):
        return Appended(result.sequence, duplicate=result.duplicate)
    if isinstance(result, Failed):
        return HostFailedError("the host failed at it: its own log has why")
    return DeniedError(result)


class RemoteRefusals:
    """Has the host note refusals: `Refusals.note`, from a process.

    Args:
        send: Says something to the host.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._number = 0

    async def note(self, refused: Refused) -> None:
        """Count a refusal; where it is the first of its kind, its entry is durable when this returns."""
        self._number += 1
        noted = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        self._send(Note(self._number, refused))
        await noted

    def noted(self, number: int) -> None:
        """The host has."""
        noted = self._waiting.pop(number)
        if not noted.done():
            noted.set_result(None)


class RemoteCounts(RequestCounts):
    """Counts requests and connections, and tells the host.

    Args:
        send: Says something to the host.
    """

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._cuts: Counter[str] = Counter()
        self._last = ""
        self._telling: asyncio.TimerHandle | None = None

    def count(self, method: str, status: int, seconds: float) -> None:
        """As `RequestCounts.count`."""
        super().count(method, status, seconds)
        self._soon()

    def cut(self, why: Cut, address: str) -> None:
        """Count a connection that was ended."""
        self._cuts[why.value] += 1
        self._last = address
        self._soon()

    def tell(self) -> None:
        """Tell what was counted since the last time."""
        if self._telling is None:
            return
        self._telling.cancel()
        self._telling = None
        requests, seconds = self.take()
        self._send(Counted(requests, seconds, dict(self._cuts), self._last))
        self._cuts.clear()

    def _soon(self) -> None:
        if self._telling is None:
            self._telling = self._loop.call_later(TELL_EVERY, self.tell)
