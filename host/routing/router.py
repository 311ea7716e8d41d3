"""The router: hands every event that has just become durable to the consumers whose filter takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from host.routing.event_log import EventLog, StoredEvent

if TYPE_CHECKING:
    from host.routing.consumer import Consumer

MAX_KNOWN_TYPES: Final = 4096
"""Types whose consumers are remembered; at the bound the memory is emptied and filled anew."""


class Router:
    """Finds the consumers of an event by its type, in time that does not grow with what is installed."""

    def __init__(self, log: EventLog) -> None:
        self._consumers: dict[str, Consumer] = {}
        self._by_type: dict[str, tuple[Consumer, ...]] = {}
        self.dispatched = log.head()
        log.listen(self._committed)

    def attach(self, consumer: Consumer) -> None:
        """Offer new events to this consumer from now on."""
        self._consumers[consumer.subscription.id] = consumer
        self._by_type.clear()

    def detach(self, consumer: Consumer) -> None:
        """Offer it nothing more."""
        if self._consumers.get(consumer.subscription.id) is consumer:
            del self._consumers[consumer.subscription.id]
            self._by_type.clear()

    def consumer(self, subscription: str) -> Consumer | None:
        """The attached consumer of a subscription id."""
        return self._consumers.get(subscription)

    def consumers(self) -> tuple[Consumer, ...]:
        """Every attached consumer."""
        return tuple(self._consumers.values())

    def _committed(self, events: Sequence[StoredEvent]) -> None:
        for stored in events:
            event = stored.event
            consumers = self._by_type.get(event.type)
            if consumers is None:
                consumers = self._find(event.type)
            for consumer in consumers:
                if consumer.subscription.filter.takes(event):
                    consumer.offer(stored)
            self.dispatched = stored.sequence

    def _find(self, event_type: str) -> tuple[Consumer, ...]:
        if len(self._by_type) >= MAX_KNOWN_TYPES:
            self._by_type.clear()
        found = tuple(
            consumer for consumer in self._consumers.values() if consumer.subscription.filter.takes_type(event_type)
        )
        self._by_type[event_type] = found
        return found
