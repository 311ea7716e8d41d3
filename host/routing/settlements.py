"""Outcomes on their way to disk: collected from all consumers, written with their cursors in one transaction.

A consumer does not wait for the write: an outcome that a crash takes with it is a delivery that was in
flight, and is made again. What waits is bounded; at the bound consumers stop taking events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

import structlog

from host.errors import BusbarError
from host.routing.event_log import EventLog, Settlement

MAX_WAITING: Final = 8192
"""Outcomes that may wait for the disk; some 4 MiB."""
CHECKPOINT_SECONDS: Final = 5.0
"""How often the cursor of a subscription that matched nothing is moved on."""
DETACH_SECONDS: Final = 5.0
"""How long a consumer that stops waits for a disk that refuses."""
RETRY_SECONDS: Final = (0.05, 0.2, 1.0, 5.0)
"""Waits between attempts to write while the disk refuses; the last one repeats."""

_log = structlog.get_logger(__name__)


class Settler(Protocol):
    """What the settlements need of a consumer."""

    @property
    def key(self) -> str:
        """The subscription's id."""
        ...

    def checkpoint(self) -> tuple[int, tuple[int, ...]]:
        """The cursor, and what was settled above it since the last call."""
        ...

    def written(self, settlements: list[Settlement]) -> None:
        """These outcomes of the consumer are durable."""
        ...


class Settlements:
    """Writes outcomes and cursors in batches; `run` is the task that does it."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._waiting: list[tuple[Settler, Settlement]] = []
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._positions: dict[str, int] = {}
        self._settlers: dict[str, Settler] = {}

    def attach(self, settler: Settler, position: int) -> None:
        """Keep the cursor of this consumer moving from now on."""
        self._settlers[settler.key] = settler
        self._positions[settler.key] = position

    async def detach(self, settler: Settler) -> None:
        """Write what the consumer still has, its cursor included, then let go of it.

        Where the disk refuses for long, what is not written is made again: it was in flight.
        """
        if self._settlers.get(settler.key) is not settler:
            return
        try:
            async with asyncio.timeout(DETACH_SECONDS):
                await self.flushed()
        except TimeoutError:
            # Its cursor is past what is not written, so it must not be written either.
            _log.warning("outcomes_not_waited_for", subscription=settler.key, outcomes=len(self._waiting))
            self._settlers.pop(settler.key, None)
        if self._settlers.pop(settler.key, None) is settler:
            await self._write([], (settler,))
        self._positions.pop(settler.key, None)

    def add(self, settler: Settler, settlement: Settlement) -> None:
        """Queue an outcome; never blocks, for the caller has asked `room` before the delivery."""
        self._waiting.append((settler, settlement))
        self._idle.clear()
        if len(self._waiting) >= MAX_WAITING:
            self._room.clear()
        self._wake.set()

    @property
    def has_room(self) -> bool:
        """Whether outcomes may be added now."""
        return self._room.is_set()

    async def room(self) -> None:
        """Wait until outcomes may be added; returns at once in ordinary times."""
        if not self._room.is_set():
            await self._room.wait()

    async def flushed(self) -> None:
        """Wait until every outcome added so far is durable."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write outcomes as they come, and idle cursors now and then, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(CHECKPOINT_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                await self._write([], tuple(self._settlers.values()))
                continue
            self._wake.clear()
            while self._waiting:
                # All of it: a cursor says that everything below it is settled, so none of that may stay behind.
                batch = self._waiting[:]
                await self._write(batch, ())
                del self._waiting[: len(batch)]
                if len(self._waiting) < MAX_WAITING:
                    self._room.set()
            self._idle.set()

    async def _write(self, batch: list[tuple[Settler, Settlement]], idle: Iterable[Settler]) -> None:
        """Write one batch, however long the disk refuses; a cursor alone is tried once and comes again."""
        by_settler: dict[str, tuple[Settler, list[Settlement]]] = {}
        for settler, settlement in batch:
            by_settler.setdefault(settler.key, (settler, []))[1].append(settlement)
        for settler in idle:
            by_settler.setdefault(settler.key, (settler, []))
        cursors: dict[str, int] = {}
        ahead: dict[str, tuple[int, ...]] = {}
        for key, (settler, found) in by_settler.items():
            position, fresh = settler.checkpoint()
            if found or fresh or position != self._positions.get(key):
                cursors[key] = position
                ahead[key] = fresh
        if not cursors:
            return
        outcomes = [settlement for _, settlement in batch]
        failures = 0
        while True:
            try:
                await self._log.settle(outcomes, cursors, ahead)
                break
            except BusbarError as error:
                wait = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                failures += 1
                if not outcomes:
                    _log.warning("cursors_not_written", error=error.message, cursors=len(cursors))
                    return
                _log.warning("outcomes_not_written", error=error.message, outcomes=len(outcomes), retry_in=wait)
                await asyncio.sleep(wait)
        self._positions.update(cursors)
        for settler, found in by_settler.values():
            if found:
                settler.written(found)
