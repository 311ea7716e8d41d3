"""What a consumer delivers next: fed from memory by the commit that just happened while it keeps up, else from the log.

Both ways are bounded, in number and in bytes. A consumer that keeps up moves its cursor past events that were never
offered to it, because nobody offers it what its filter does not take; so it may call itself live only while it is
certain that every offer has reached it, and reads from the log wherever there is doubt.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
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
        takes: Whether an event is for the consumer.
        last: The last sequence that is to be delivered; None for one that follows the log.
    """

    def __init__(
        self,
        log: EventLog,
        router: Router,
        progress: Progress,
        takes: Callable[[StoredEvent], bool],
        last: int | None,
    ) -> None:
        self._log = log
        self._router = router
        self._progress = progress
        self._takes = takes
        self._last = last
        self._queue: deque[StoredEvent] = deque()
        self._held = 0
        self._wanted = asyncio.Event()
        self._looked_at = 0
        self.state = FeedState.READING
        self._sifted = False  # the queue holds only what the filter takes: what the router offered

    def peek(self) -> StoredEvent | None:
        """The next event for the consumer, as far as it is in memory; what is not for it is passed by."""
        queue = self._queue
        while queue:
            stored = queue[0]
            if self._sifted or self._looked_at == stored.sequence or self._takes(stored):
                self._looked_at = stored.sequence
                return stored
            self._progress.read = stored.sequence
            self.take()
        return None

    def take(self) -> None:
        """Take what `peek` answered out of the queue."""
        stored = self._queue.popleft()
        if self._sifted:
            self._held -= len(stored.body)
            self._router.held_bytes -= len(stored.body)
        if not self._queue and self.state is FeedState.READING:
            self._wanted.set()

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
        self._sifted = True
        return True

    def fall_behind(self) -> None:
        """Read from the log from where the queue ends, although nothing says that there is more."""
        if self.state is FeedState.LIVE:
            self.state = FeedState.READING
            self._wanted.set()

    def stop(self) -> None:
        """Take nothing more: what the router passes by from here on does not count as read."""
        self.caught_up()
        self.state = FeedState.STOPPED
        if self._sifted:
            self._router.held_bytes -= self._held
        self._queue.clear()
        self._held = 0
        self._wanted.set()

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
        """Wait until the next events have to be read, and read them; False where there is no more to come.

        Raises:
            BusbarError: the log could not be read.
        """
        while self.state is FeedState.LIVE or self._queue:
            self._wanted.clear()
            await self._wanted.wait()
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
        self._sifted = False
        if not batch:
            # What was dispatched before this read and is not in the log was pruned. What came while it read may be
            # missing from its snapshot only: then the next read has it.
            self._progress.read = max(self._progress.read, dispatched)
            # Nothing awaits between this look and the switch, so no commit can slip in between.
            if self._progress.read >= self._router.dispatched:
                self.state = FeedState.LIVE
        return True
