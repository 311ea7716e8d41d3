"""Deliveries of a schedule's firings: the next firing may put an end to one that runs or waits."""

from __future__ import annotations

import asyncio
from typing import Final

from host.routing.attempts import Attempts
from host.routing.event_log import Settlement, StoredEvent
from host.routing.guard import Permit

MAX_SUPERSEDED: Final = 65_536
"""Firings that are remembered as superseded; with more, those before are forgotten."""
SUPERSEDED: Final = "superseded: the schedule came due again"


class Firings:
    """Makes attempts at firings, and drops those that were superseded."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._running: dict[int, asyncio.Task[None] | None] = {}
        self._superseded: set[int] = set()

    def supersede(self, sequence: int) -> None:
        """Drop the delivery of a firing: cancelled where it runs, not tried (again) where it waits."""
        if len(self._superseded) >= MAX_SUPERSEDED:
            self._superseded.clear()  # of firings that were settled meanwhile, and will never be asked for
        self._superseded.add(sequence)
        task = self._running.get(sequence)
        if task is not None:
            task.cancel()

    def settled(self, sequence: int) -> None:
        """Nothing is left to be dropped of this firing."""
        self._superseded.discard(sequence)

    async def attempt(self, stored: StoredEvent, attempt: int, permit: Permit, *, noted: bool) -> Settlement:
        """Make an attempt, unless the firing was superseded; arguments as of `Attempts.make`."""
        sequence, attempts = stored.sequence, self._attempts
        if sequence in self._superseded:
            permit.give_back()
            self._superseded.discard(sequence)
            return attempts.drop(stored, attempt - 1, SUPERSEDED, noted=noted)
        self._running[sequence] = task = asyncio.current_task()
        try:
            return await attempts.make(stored, attempt, permit, noted=noted)
        except asyncio.CancelledError:
            if sequence not in self._superseded or task is None or task.uncancel():
                raise
            return attempts.drop(stored, attempt, SUPERSEDED, noted=noted)
        finally:
            self._superseded.discard(sequence)
            del self._running[sequence]
