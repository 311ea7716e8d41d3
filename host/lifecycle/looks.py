"""What changed, and what of it was looked at: how one task hears of changes, and those who made them hear of it."""

from __future__ import annotations

import asyncio


class Looks:
    """Counts changes, and how many of them were looked at."""

    def __init__(self) -> None:
        self._wanted = 0
        self._done = 0
        self._poked = asyncio.Event()
        self._progress = asyncio.Condition()

    @property
    def due(self) -> bool:
        """Whether something changed that nobody has looked at."""
        return self._done < self._wanted

    def poke(self) -> None:
        """Something changed."""
        self._wanted += 1
        self._poked.set()

    async def next(self, longest: float | None) -> int:
        """Wait until something changed, or `longest` seconds are over; what is to be told to `done` after the look."""
        try:
            async with asyncio.timeout(longest):
                await self._poked.wait()
        except TimeoutError:
            pass
        self._poked.clear()
        return self._wanted

    async def done(self, look: int) -> None:
        """What had changed by then was looked at."""
        self._done = look
        async with self._progress:
            self._progress.notify_all()

    async def caught_up(self) -> None:
        """Wait until everything that changed so far was looked at."""
        wanted = self._wanted
        async with self._progress:
            await self._progress.wait_for(lambda: self._done >= wanted)
