"""Deliveries that stepped aside: read back from the retry table when they are due, to be tried again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from host.errors import BusbarError
from host.routing.event_log import EventLog, Outcome, PendingRetry, Settlement, StoredEvent
from plugin_sdk.clock import Clock

READ_EVENTS: Final = 256
READ_RETRY_SECONDS: Final = 1.0
MAX_RETRIES: Final = 10_000
"""Deliveries of one subscription that wait for their next attempt; with more it takes no new event."""

_log = structlog.get_logger(__name__)


class Retries:
    """The retries of one subscription.

    Args:
        key: The subscription's id.
        log: Where they are.
        clock: For due times.
        arrived: Called when some are due.

    Attributes:
        due: Those that are due, in the order in which they became so; taken by `take`.
        waiting: How many deliveries wait for their next attempt, those under way included.
    """

    def __init__(self, key: str, *, log: EventLog, clock: Clock, arrived: Callable[[], None]) -> None:
        self._key = key
        self._log = log
        self._clock = clock
        self._arrived = arrived
        self._changed = asyncio.Event()
        self._under_way: set[int] = set()
        self._just_written: set[int] = set()
        self._taken = asyncio.Event()
        self.due: deque[tuple[PendingRetry, StoredEvent]] = deque()
        self.waiting = 0

    @property
    def crowded(self) -> bool:
        """Whether as many wait as may."""
        return self.waiting >= MAX_RETRIES

    def take(self) -> None:
        """The first that is due is under way."""
        pending, _ = self.due.popleft()
        self._under_way.add(pending.sequence)
        if not self.due:
            self._taken.set()

    def noted(self, sequence: int) -> bool:
        """Whether a delivery under way has a row in the retry table."""
        return sequence in self._under_way

    def note(self, sequence: int) -> None:
        """A first attempt was written down before it is made, and so has a row."""
        if sequence not in self._under_way:
            self._under_way.add(sequence)
            self.waiting += 1

    def added(self, count: int) -> None:
        """Someone else put deliveries into the table, or the clock was set: look again."""
        self.waiting += count
        self._changed.set()

    def settled(self, settlement: Settlement) -> None:
        """An outcome is decided: one more waits, or one less."""
        self.waiting += (settlement.outcome is Outcome.RETRIED) - settlement.noted

    def set_aside(self, settlement: Settlement) -> None:
        """An outcome is a dead letter after all."""
        self.waiting -= settlement.outcome is Outcome.RETRIED

    def written(self, settlements: Sequence[Settlement]) -> None:
        """Outcomes became durable: what was to be retried can now be read back."""
        changed = False
        for settlement in settlements:
            if settlement.noted:
                self._under_way.discard(settlement.stored.sequence)
                self._just_written.add(settlement.stored.sequence)
                changed = True
            changed = changed or settlement.outcome is Outcome.RETRIED
        if changed:
            self._changed.set()

    async def run(self) -> None:
        """Read what comes due, until cancelled."""
        while True:
            self._changed.clear()
            try:
                wait = await self._read_due()
            except BusbarError as error:
                _log.warning("retries_not_read", subscription=self._key, error=error.message)
                wait = READ_RETRY_SECONDS
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _read_due(self) -> float | None:
        """Have what is due taken; seconds until the next one is, None where nothing waits."""
        now = self._clock.now().timestamp()
        self._just_written.clear()
        due = await self._log.due(self._key, now, READ_EVENTS, besides=tuple(self._under_way))
        # What was settled while this was read may show as due in the older snapshot.
        self.due.extend(one for one in due if one[0].sequence not in self._just_written)
        if self.due:
            self._taken.clear()
            self._arrived()
            while self.due:
                await self._taken.wait()
        if due:
            return 0.0  # there may be more, beyond what is read at once
        following = await self._log.next_due(self._key, after=now)
        return None if following is None else max(0.0, following - self._clock.now().timestamp())
