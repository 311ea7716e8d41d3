"""Deliveries handed to a runtime by hand, and what is heard of them."""

from __future__ import annotations

import asyncio
from typing import Any

from host.routing.event_log import StoredEvent
from plugin_sdk.calls import Flight
from plugin_sdk.events import Event, new_event


class One:
    """One delivery in a runtime's hands."""

    def __init__(self, stored: StoredEvent, attempt: int = 1) -> None:
        self.stored = stored
        self.attempt = attempt
        self.number = 0


class Heard:
    """Hears of deliveries, and lets others wait for it."""

    def __init__(self) -> None:
        self.ends: dict[Any, Exception | None] = {}
        self.seconds: dict[Any, float] = {}
        self.back: list[Any] = []
        self._stirred = asyncio.Event()

    def landed(self, landings: Any) -> None:
        for one, error, seconds in landings:
            assert one not in self.ends, "told twice"
            self.ends[one] = error
            self.seconds[one] = seconds
        self._stirred.set()

    def recalled(self, handed: Any) -> None:
        self.back += handed
        self._stirred.set()

    async def of(self, *wanted: One) -> list[Exception | None]:
        """What became of these, once it is known of all of them."""
        async with asyncio.timeout(30):
            while not all(one in self.ends for one in wanted):
                self._stirred.clear()
                await self._stirred.wait()
        return [self.ends[one] for one in wanted]


def handed(*events: Event, first: int = 1) -> tuple[Flight, list[One]]:
    """A flight of the subscription `act` of the plugin `example`."""
    ones = [One(StoredEvent(sequence, event, event.to_json(), 0.0)) for sequence, event in enumerate(events, first)]
    return Flight("example/act", "act", replay=False, unfiltered=False), ones


def flight_of(*bodies: bytes) -> tuple[Flight, list[One]]:
    """A flight of bodies that no event has."""
    event = new_event("example.event", source="/tests")
    ones = [One(StoredEvent(sequence, event, body, 0.0)) for sequence, body in enumerate(bodies, 1)]
    return Flight("example/act", "act", replay=False, unfiltered=False), ones
