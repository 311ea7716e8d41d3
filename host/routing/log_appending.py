"""Appending to the SQLite log as the host sees it: rows on their way out, and the listeners told once they are durable.

All of it runs on the loop; the rows are written by the log's writer (`host.storage.log_writer`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from host.routing.errors import EventConflictError
from host.routing.event_log import Appended, StoredEvent
from host.storage.log_writer.batches import refused
from host.storage.log_writer.frames import Answer, Done
from plugin_sdk.clock import Clock
from plugin_sdk.events import Event

Item = tuple[Event, bytes]
"""An event and its JSON."""

_log = structlog.get_logger(__name__)


class Appender:
    """What the host knows of the end of the log.

    Attributes:
        head: The highest sequence that is durable.
        shares: What the durable events of each plugin weigh.
    """

    def __init__(self, head: int, clock: Clock, shares: Mapping[str, int]) -> None:
        self.head = head
        self.shares = Counter(shares)
        self._clock = clock
        self._listeners: list[Callable[[int, Sequence[StoredEvent]], None]] = []

    def listen(self, listener: Callable[[int, Sequence[StoredEvent]], None]) -> None:
        """Tell `listener` of the new events of each commit, and of the head that they follow."""
        self._listeners.append(listener)

    # -- for the log's writer

    def stamp(self) -> int:
        """The time of what is appended now, in microseconds since the epoch."""
        return int(self._clock.now().timestamp() * 1_000_000)

    def row(self, item: Item) -> tuple[str, str, str, str | None, bytes]:
        """An event as a row of a frame."""
        event, body = item
        return event.source, event.id, event.type, event.subject, body

    def durable(
        self, items: Sequence[Item], within: Sequence[tuple[Sequence[Item], Done]], stamp: int, answer: Answer
    ) -> list[Appended | Exception]:
        """Tell the listeners what is durable, in order; what became of each of `items`."""
        at, first = stamp / 1_000_000, answer.first
        results: list[Appended | Exception]
        if not answer.twins and not answer.refused:
            results = [Appended(sequence, duplicate=False) for sequence in range(first, first + len(items))]
            fresh = [StoredEvent(sequence, event, body, at) for sequence, (event, body) in enumerate(items, first)]
        else:
            results, fresh = _apart(items, at, answer)
        for events, done in within:
            fresh += [StoredEvent(sequence, *events[index], at) for index, sequence in done.fresh]
        if answer.shares:
            self.shares.update(answer.shares)
        if fresh:
            # Rows that were refused leave gaps, never a different order.
            after, self.head = self.head, fresh[-1].sequence
            self._tell(after, fresh)
        return results

    def _tell(self, after: int, fresh: Sequence[StoredEvent]) -> None:
        for listener in self._listeners:
            try:
                listener(after, fresh)
            except Exception:  # noqa: BLE001 - logged with its traceback, and nothing else can be done
                # The others still have to hear of it: what they miss they would never be offered again.
                _log.exception("log_listener_failed")


def _apart(items: Sequence[Item], at: float, answer: Answer) -> tuple[list[Appended | Exception], list[StoredEvent]]:
    """The results of items of which some were not appended, and the events that were."""
    other: dict[int, Any] = {index: (sequence, same) for index, sequence, same in answer.twins}
    refusals = dict(answer.refused)
    results: list[Appended | Exception] = []
    fresh: list[StoredEvent] = []
    for index, (event, body) in enumerate(items):
        if index in refusals:
            results.append(refused(refusals[index]))
        elif index not in other:
            results.append(Appended(answer.first + index, duplicate=False))
            fresh.append(StoredEvent(answer.first + index, event, body, at))
        elif other[index][1]:
            results.append(Appended(other[index][0], duplicate=True))
        else:
            results.append(EventConflictError(event.source, event.id))
    return results, fresh
