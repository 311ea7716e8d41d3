"""The router: hands every event that has just become durable to the consumers whose filter takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from host.routing.event_log import EventLog, StoredEvent
from host.routing.type_index import TypeIndex

if TYPE_CHECKING:
    from host.routing.consumer import Consumer


class Router:
    """Finds the consumers of an event by its type, in time that does not grow with what is installed."""

    def __init__(self, log: EventLog) -> None:
        self._consumers: dict[str, Consumer] = {}
        self._index: TypeIndex[Consumer] = TypeIndex()
        self.dispatched = log.head()
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

    def _committed(self, events: Sequence[StoredEvent]) -> None:
        candidates = self._index.candidates
        for stored in events:
            event = stored.event
            for consumer in candidates(event.type):
                if consumer.subscription.filter.admits(stored):
                    consumer.offer(stored)
            self.dispatched = stored.sequence
