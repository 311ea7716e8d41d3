"""The order of deliveries: which events wait for which. Pure, no loop.

Events of one lane are delivered one after the other; lanes do not wait for each other. `strict` has one lane,
`by-key` one for each `partitionkey`, `none` has none.
"""

from __future__ import annotations

from collections import deque

from host.routing.event_log import StoredEvent
from plugin_sdk.delivery import AtFailure, Order
from plugin_sdk.events import Event

PARTITION_KEY = "partitionkey"
"""The CloudEvents extension (Partitioning) whose value names the lane."""


class Lanes:
    """Who is under way in each lane, and who waits behind.

    An event without a `partitionkey` has no lane in `by-key`: it is delivered at once.
    """

    __slots__ = ("_at_failure", "_busy", "_order", "_parked", "parked", "parked_bytes")

    def __init__(self, order: Order, at_failure: AtFailure) -> None:
        self._order = order
        self._at_failure = at_failure
        self._busy: dict[str, set[int]] = {}
        self._parked: dict[str, deque[StoredEvent]] = {}
        self.parked = 0
        self.parked_bytes = 0

    @property
    def ordered(self) -> bool:
        """Whether there are lanes at all."""
        return self._order != "none"

    @property
    def blocks(self) -> bool:
        """Whether those behind a failed delivery wait for it."""
        return self.ordered and self._at_failure == "block"

    def lane(self, event: Event) -> str | None:
        """The lane of an event; None where it waits for nobody."""
        if self._order == "none":
            return None
        if self._order == "strict":
            return ""
        key = event.extensions.get(PARTITION_KEY)
        return None if key is None else str(key)

    def occupy(self, stored: StoredEvent) -> None:
        """Note a delivery that failed before a restart and is still to be made: its lane waits for it."""
        lane = self.lane(stored.event)
        if lane is not None:
            self._busy.setdefault(lane, set()).add(stored.sequence)

    def enter(self, stored: StoredEvent) -> bool:
        """Whether the event may be delivered now; where not, it is parked until `leave` answers it."""
        lane = self.lane(stored.event)
        if lane is None:
            return True
        busy = self._busy.get(lane)
        if not busy:
            self._busy[lane] = {stored.sequence}
            return True
        self._parked.setdefault(lane, deque()).append(stored)
        self.parked += 1
        self.parked_bytes += len(stored.body)
        return False

    def leave(self, stored: StoredEvent) -> StoredEvent | None:
        """A delivery is decided, or set aside; the event that waited behind it and is now under way, if any."""
        lane = self.lane(stored.event)
        if lane is None:
            return None
        busy = self._busy.get(lane)
        if busy is None or stored.sequence not in busy:
            return None  # set aside before, or a dead letter's retry: nobody waits for it
        busy.discard(stored.sequence)
        if busy:
            return None
        waiting = self._parked.get(lane)
        if not waiting:
            del self._busy[lane]
            return None
        following = waiting.popleft()
        self.parked -= 1
        self.parked_bytes -= len(following.body)
        if not waiting:
            del self._parked[lane]
        busy.add(following.sequence)
        return following
