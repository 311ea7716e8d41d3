"""The router: hands every event that has just become durable to the consumers whose filter takes it.

It serves all plugins, so nothing that goes wrong with one consumer is let out: that one fails, begins anew from its
cursor, and the others are offered what is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import structlog

from host.routing.event_log import EventLog, StoredEvent
from host.routing.type_index import TypeIndex

if TYPE_CHECKING:
    from host.routing.consumer import Consumer

MAX_HELD_BYTES: Final = 32 * 2**20
"""Bytes of events that all consumers together hold for being offered them; above it they read from the log."""

_log = structlog.get_logger(__name__)


class Router:
    """Finds the consumers of an event by its type, in time that does not grow with what is installed.

    Attributes:
        dispatched: Every event up to this sequence was offered to whom it is for.
        held_bytes: What the consumers hold of what they were offered; they count it.
    """

    def __init__(self, log: EventLog) -> None:
        self._consumers: dict[str, Consumer] = {}
        self._index: TypeIndex[Consumer] = TypeIndex()
        self.dispatched = log.head()
        self.held_bytes = 0
        log.listen(self._committed)

    def attach(self, consumer: Consumer) -> None:
        """Offer new events to this consumer from now on, instead of to another of its subscription."""
        before = self._consumers.get(consumer.key)
        if before is not None:
            self._index.remove(before)
        self._consumers[consumer.key] = consumer
        self._index.add(consumer, consumer.subscription.filter.types)

    def detach(self, consumer: Consumer) -> None:
        """Offer it nothing more."""
        if self._consumers.get(consumer.key) is consumer:
            del self._consumers[consumer.key]
            self._index.remove(consumer)

    def consumer(self, subscription: str) -> Consumer | None:
        """The attached consumer of a subscription id."""
        return self._consumers.get(subscription)

    def consumers(self) -> tuple[Consumer, ...]:
        """Every attached consumer."""
        return tuple(self._consumers.values())

    def _committed(self, after: int, events: Sequence[StoredEvent]) -> None:
        try:
            if after != self.dispatched:
                raise LookupError(f"what was committed from {self.dispatched} to {after} was not told")
            candidates = self._index.candidates
            offered: dict[Consumer, None] = {}
            for stored in events:
                for consumer in candidates(stored.event.type):
                    try:
                        if consumer.subscription.filter.admits(stored) and consumer.offer(stored):
                            offered[consumer] = None
                    except Exception as error:  # noqa: BLE001 - its consumer's end, logged there, and nobody else's
                        consumer.fail(error)
                self.dispatched = stored.sequence
            for consumer in offered:
                consumer.pump()
        except Exception:  # noqa: BLE001 - logged with its traceback; nobody may be missing an event for it
            _log.exception("events_not_dispatched", after=after, events=len(events))
            for consumer in self.consumers():
                consumer.fall_behind()
            self.dispatched = events[-1].sequence
