"""What a consumer delivers next: fed from memory by the commit that just happened while it keeps up, else from the log.

Both ways are bounded, in number and in bytes. A consumer that keeps up moves its cursor past events that were never
offered to it, because nobody offers it what its filter does not take; so it may call itself live only while it is
certain that every offer has reached it, and reads from the log wherever there is doubt.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Final

from host.routing.event_log import EventLog, StoredEvent
from host.routing.progress import Progress
from host.routing.router import MAX_HELD_BYTES, Router

LIVE_EVENTS: Final = 1024
"""Events held in memory for a consumer that keeps up; one more and it reads from the log instead."""
LIVE_BYTES: Final = 2**20
"""Bytes that these events may have, as JSON; decoded, they take several times as much. One alone may have more."""
READ_EVENTS: Final = 256


class FeedState(Enum):
    """Where the next events come from."""

    READING = "reading"
    LIVE = "live"
    STOPPED = "stopped"


class Feed:
    """The events of one consumer, in order.

    Args:
        key: The subscription's id.
        log: Where it reads what it was not offered.
        router: Knows how far events have been offered, and counts what is held.
        progress: Moved on past what is not for the consumer.
        last: The last sequence that is to be delivered; None for one that follows the log.
    """

    def __init__(self, key: str, log: EventLog, router: Router, progress: Progress, last: int | None) -> None:
        self._key = key
        self._log = log
        self._router = router
        self._progress = progress
        self._last = last
        self._queue: deque[StoredEvent] = deque()
        self._held = 0
        self._arrived = asyncio.Event()
        self.state = FeedState.READING
        self.sifted = False
        """Whether the queue holds only what the filter takes: what the router offered."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def first(self) -> StoredEvent:
        """The next event; there must be one."""
        return self._queue[0]

    def pop(self) -> StoredEvent:
        """Take the next event."""
        stored = self._queue.popleft()
        if self.sifted:
            self._held -= len(stored.body)
            self._router.held_bytes -= len(stored.body)
        return stored

    def offer(self, stored: StoredEvent) -> bool:
        """Take a new event into the queue; False where this feed reads from the log anyway, or does so from now on."""
        if self.state is not FeedState.LIVE or stored.sequence <= self._progress.read:
            return False
        size, queue = len(stored.body), self._queue
        full = len(queue) >= LIVE_EVENTS or self._held + size > LIVE_BYTES
        if queue and (full or self._router.held_bytes + size > MAX_HELD_BYTES):
            self.fall_behind()
            return False
        queue.append(stored)
        self._held += size
        self._router.held_bytes += size
        self.sifted = True
        return True

    def wake(self) -> None:
        """Have `refill` look again: there is something in the queue, or it is not live any more."""
        self._arrived.set()

    def fall_behind(self) -> None:
        """Read from the log from where the queue ends, although nothing says that there is more."""
        if self.state is FeedState.LIVE:
            self.state = FeedState.READING
            self._arrived.set()

    def stop(self) -> None:
        """Take nothing more: what the router passes by from here on does not count as read."""
        self.caught_up()
        self.state = FeedState.STOPPED
        if self.sifted:
            self._router.held_bytes -= self._held
        self._queue.clear()
        self._held = 0

    def lose(self) -> None:
        """As `stop`, where it is not certain that every offer has arrived: the cursor stays below the doubt."""
        if self.state is FeedState.LIVE:
            self.state = FeedState.READING
        self.stop()

    def caught_up(self) -> None:
        """Move on past events of other subscriptions, which were never offered."""
        if self.state is FeedState.LIVE and not self._queue:
            self._progress.read = max(self._progress.read, self._router.dispatched)

    async def refill(self) -> bool:
        """Wait for an event while this feed is live, else read a batch; False where there is no more to come.

        Raises:
            BusbarError: the log could not be read.
        """
        if self.state is FeedState.LIVE:
            self._arrived.clear()
            await self._arrived.wait()
            return True
        dispatched = self._router.dispatched
        batch: Sequence[StoredEvent] = await self._log.read(after=self._progress.read, limit=READ_EVENTS)
        if self._last is not None:
            last = self._last
            batch = [stored for stored in batch if stored.sequence <= last]
            if not batch:
                self._progress.read = max(self._progress.read, last)
                return False
        if self.state is FeedState.STOPPED:
            return False
        self._queue.extend(batch)
        self.sifted = False
        if not batch:
            # What was dispatched before this read and is not in the log was pruned. What came while it read may be
            # missing from its snapshot only: then the next read has it.
            self._progress.read = max(self._progress.read, dispatched)
            # Nothing awaits between this look and the switch, so no commit can slip in between.
            if self._progress.read >= self._router.dispatched:
                self.state = FeedState.LIVE
        return True
