"""The log's budget: prunes it, and has publishers wait while nothing may leave it and no more fits.

What was acknowledged stays; what is new is refused with the time to come back, and taken again by itself once a
subscription has caught up, an operator has raised the budget, or the oldest events may go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from host.errors import BusbarError
from host.routing.errors import LogFullError, give_up
from host.routing.event_log import EventLog, Pruned
from plugin_sdk.clock import Clock

PRUNE_SECONDS: Final = 300.0
"""How often events that are too old are looked for."""
CHECK_SECONDS: Final = 5.0
"""How often the size is looked at while publishers wait."""
ROOM: Final = 0.95
"""The share of the budget down to which a full log is pruned, and below which publishers are let in again."""
UNSEEN: Final = 1 / 16
"""The share of the budget that may be appended between two looks at the size; half of it asks for a look."""

_log = structlog.get_logger(__name__)


class LogBudget:
    """Keeps the log within `keep_bytes` and `keep_for`; `run` is the task that does it.

    Args:
        log: What is kept within bounds.
        keep_for: Seconds that events are kept.
        keep_bytes: Bytes that the log may have.
        clock: For ages.
        announce: Appends an event of the host's own: its type, subject and data.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        keep_for: float,
        keep_bytes: int,
        clock: Clock,
        announce: Callable[[str, str, object], Awaitable[None]],
    ) -> None:
        self._log = log
        self._keep_for = keep_for
        self._keep_bytes = keep_bytes
        self._clock = clock
        self._announce = announce
        self._unseen = 0
        self._look = asyncio.Event()
        self.full = False
        self._told = False
        self.held_by: tuple[str, ...] = ()
        self.refused = 0

    def admit(self, size: int) -> None:
        """Let an event of `size` bytes in.

        Raises:
            LogFullError: the log is full, or grows faster than it can be looked at.
        """
        self._unseen += size
        if self._unseen * 2 > self._keep_bytes * UNSEEN:
            self._look.set()
        if self.full:
            self.refused += 1
            held = f": {', '.join(self.held_by)} did not have the oldest events yet" if self.held_by else ""
            raise LogFullError(
                f"the event log is full{held}; look at their plugins,{give_up(self.held_by)} raise events.keep_bytes",
                retry_after=CHECK_SECONDS,
            )
        if self._unseen > max(self._keep_bytes * UNSEEN, size):
            self.refused += 1
            raise LogFullError("events come faster than the log can be kept within its budget", retry_after=1.0)

    async def run(self) -> None:
        """Prune now and then, and whenever much was appended, until cancelled."""
        while True:
            try:
                await self.check()
            except BusbarError as error:
                _log.warning("log_not_pruned", error=error.message)
            try:
                async with asyncio.timeout(CHECK_SECONDS if self.full else PRUNE_SECONDS):
                    await self._look.wait()
            except TimeoutError:
                continue

    async def check(self) -> None:
        """Prune what may go, and see whether the log is full."""
        self._look.clear()
        self._unseen = 0
        over = self.full or await self._log.used_bytes() > self._keep_bytes
        budget = int(self._keep_bytes * ROOM) if over else self._keep_bytes
        pruned = await self._log.prune(self._clock.now().timestamp() - self._keep_for, budget)
        if pruned.events or pruned.held_by:
            _log.info("log_pruned", events=pruned.events, held_by=pruned.held_by)
        await self.tell_skipped(pruned)
        used = await self._log.used_bytes()
        full = used > (self._keep_bytes * ROOM if self.full else self._keep_bytes)
        self.held_by = pruned.held_by if full else ()
        if full != self.full:
            self.full = full
            if full:
                _log.error("log_full", bytes=used, budget=self._keep_bytes, held_by=pruned.held_by)
            else:
                _log.warning("log_has_room", bytes=used, budget=self._keep_bytes)
        if full != self._told:  # where the disk refused to tell it, the next look does
            data = {"bytes": used, "budget": self._keep_bytes, "heldBy": list(pruned.held_by)}
            await self._announce("log.full" if full else "log.has-room", "log", data)
            self._told = full

    def look(self) -> None:
        """Have the size looked at now: something that held the log may have let go."""
        self._look.set()

    async def tell_skipped(self, pruned: Pruned) -> None:
        """Say which subscriptions lost events that they do without by their policy."""
        for subscription, places in pruned.skipped.items():
            _log.error("events_skipped", subscription=subscription, places=places)
            data = {"subscription": subscription, "places": places}
            await self._announce("subscription.skipped", subscription, data)
