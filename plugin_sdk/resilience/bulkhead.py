"""The bulkhead: at most so many calls at once."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from plugin_sdk.resilience.numbers import number


class Bulkhead:
    """At most `limit` calls at once; of those who wait the highest priority is served first, then who came first."""

    __slots__ = ("_free", "_tickets", "_waiting", "limit")

    def __init__(self, limit: int) -> None:
        number("limit", limit, 1)
        self.limit = limit
        self._free = limit
        self._tickets = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @property
    def in_use(self) -> int:
        """Places that are taken."""
        return self.limit - self._free

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(not place.done() for _, _, place in self._waiting)

    def try_acquire(self) -> bool:
        """Take a place if there is one and nobody waits for it."""
        if self._free > 0:  # a place that somebody waits for is handed over, and never free
            self._free -= 1
            return True
        return False

    async def acquire(self, priority: int = 0) -> None:
        """Take a place, waiting for one; the higher `priority` is served first."""
        if self.try_acquire():
            return
        place = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (-priority, next(self._tickets), place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release()  # it was handed over in the moment of the cancellation
            else:
                place.cancel()  # whoever hands out places passes over it
            raise

    def release(self) -> None:
        """Give a place back; it goes to whoever is first among those who wait."""
        while self._waiting:
            _, _, place = heapq.heappop(self._waiting)
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
