"""Outcomes on their way to disk: collected from all consumers, written with their cursors in one transaction.

A consumer does not wait for the write: an outcome that a crash takes with it is a delivery that was in
flight, and is made again. What waits is bounded, in number and in bytes; at the bound consumers stop taking events.

A batch holds the outcomes of many plugins. What the disk refuses is tried again until it takes it. What the database
refuses for one outcome's sake is set aside: the others are written without it, it becomes a dead letter, and where
not even that can be written, its consumer alone is let go of and begins anew from its last cursor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog

from host.errors import BusbarError
from host.routing.event_log import EventLog, Outcome, Settlement
from host.storage.errors import RowRefusedError

MAX_WAITING: Final = 8192
"""Outcomes that may wait for the disk."""
MAX_WAITING_EACH: Final = 2048
"""Those of one plugin among them: what one cannot settle fast enough holds up nobody else."""
MAX_WAITING_BYTES: Final = 32 * 2**20
"""What the events and tracebacks of the waiting outcomes may weigh in all; one alone may weigh more."""
MAX_BYTES_EACH: Final = 8 * 2**20
"""What those of one plugin may weigh."""
CHECKPOINT_SECONDS: Final = 5.0
"""How often the cursor of a subscription that matched nothing is moved on."""
DETACH_SECONDS: Final = 5.0
"""How long a consumer that stops waits for a disk that refuses."""
RETRY_SECONDS: Final = (0.05, 0.2, 1.0, 5.0)
"""Waits between attempts to write while the disk refuses; the last one repeats."""

_log = structlog.get_logger(__name__)


class Pumped(Protocol):
    """Who waits for room."""

    def pump(self) -> None:
        """There may be room again."""
        ...


class Settler(Protocol):
    """What the settlements need of a consumer."""

    @property
    def key(self) -> str:
        """The subscription's id."""
        ...

    def checkpoint(self) -> tuple[int, tuple[int, ...]]:
        """The cursor, and what was settled above it since the last call."""
        ...

    def written(self, settlements: Sequence[Settlement]) -> None:
        """These outcomes of the consumer are durable."""
        ...

    def set_aside(self, settlement: Settlement) -> None:
        """This outcome could not be written, and is a dead letter instead."""
        ...

    def fail(self, error: Exception) -> None:
        """Its outcomes cannot be written: what is not durable is to be delivered again, from the cursor on."""
        ...


@dataclass(slots=True)
class _Portion:
    """What one consumer has in a batch, and the cursor that goes with it."""

    settler: Settler
    outcomes: list[Settlement]
    position: int = 0
    ahead: tuple[int, ...] = ()


class Settlements:
    """Writes outcomes and cursors in batches; `run` is the task that does it."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._waiting: list[tuple[Settler, Settlement]] = []
        self._unwritten: list[tuple[Settler, Settlement]] = []  # the batch that is being written
        self._held = 0  # outcomes that are not durable: waiting, or being written
        self._held_bytes = 0
        self._held_by: dict[str, list[int]] = {}
        self._wanting: dict[Pumped, None] = {}
        self._wake = asyncio.Event()
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
            _log.warning("outcomes_not_waited_for", subscription=settler.key, outcomes=self._held)
            self._settlers.pop(settler.key, None)
        if self._settlers.get(settler.key) is settler:
            del self._settlers[settler.key]
            await self._write([], (settler,))
            self._positions.pop(settler.key, None)

    def add(self, settler: Settler, settlements: Sequence[Settlement]) -> None:
        """Queue outcomes of one plugin; never blocks, for there was room when the deliveries were made."""
        weight = sum(map(_weight, settlements))
        self._waiting += [(settler, settlement) for settlement in settlements]
        self._count(settlements[0].plugin, len(settlements), weight)
        self._idle.clear()
        self._wake.set()

    def has_room(self, plugin: str) -> bool:
        """Whether outcomes of a plugin may be added now."""
        if self._held >= MAX_WAITING or self._held_bytes >= MAX_WAITING_BYTES:
            return False
        held = self._held_by.get(plugin)
        return held is None or (held[0] < MAX_WAITING_EACH and held[1] < MAX_BYTES_EACH)

    def when_room(self, who: Pumped) -> None:
        """Pump once, when there may be room."""
        self._wanting[who] = None

    def _count(self, plugin: str, outcomes: int, weight: int) -> None:
        """More or fewer outcomes of a plugin are held."""
        self._held += outcomes
        self._held_bytes += weight
        held = self._held_by.setdefault(plugin, [0, 0])
        held[0] += outcomes
        held[1] += weight
        if not held[0]:
            del self._held_by[plugin]

    async def flushed(self) -> None:
        """Wait until every outcome added so far is durable."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write outcomes as they come, and idle cursors now and then, until cancelled.

        A second run takes up what the first one did not get written.
        """
        self._waiting, self._unwritten = [*self._unwritten, *self._waiting], []
        if self._waiting:
            self._wake.set()
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
                batch = self._unwritten = self._waiting
                self._waiting = []
                await self._write(batch, ())
                self._unwritten = []
                self._let_go_of(settlement for _, settlement in batch)
                wanting, self._wanting = self._wanting, {}
                for one in wanting:
                    one.pump()
            self._idle.set()

    async def _write(self, batch: Sequence[tuple[Settler, Settlement]], idle: Iterable[Settler]) -> None:
        """Write one batch, however long the disk refuses; a cursor alone is tried once and comes again."""
        portions = self._portions(batch, idle)
        if not portions:
            return
        try:
            if not await self._settle(portions):
                return
        except Exception as error:  # noqa: BLE001 - logged; one outcome must not hold up those of all
            _log.warning("outcomes_written_apart", error=str(error), consumers=len(portions), outcomes=len(batch))
            portions = [portion for portion in portions if await self._settle_alone(portion)]
        for portion in portions:
            settler = portion.settler
            if self._settlers.get(settler.key) is settler:
                self._positions[settler.key] = portion.position
            if not portion.outcomes:
                continue
            try:
                settler.written(portion.outcomes)
            except Exception as error:  # noqa: BLE001 - logged there; the outcomes are durable, whatever it makes of it
                settler.fail(error)

    def _portions(self, batch: Sequence[tuple[Settler, Settlement]], idle: Iterable[Settler]) -> list[_Portion]:
        """The batch by consumer, each with its cursor, as far as there is anything to write."""
        found: dict[int, _Portion] = {}
        for settler, settlement in batch:
            portion = found.get(id(settler))
            if portion is None:
                portion = found[id(settler)] = _Portion(settler, [])
            portion.outcomes.append(settlement)
        for settler in idle:
            found.setdefault(id(settler), _Portion(settler, []))
        portions = []
        for portion in found.values():
            key = portion.settler.key
            try:
                portion.position, portion.ahead = portion.settler.checkpoint()
            except Exception as error:  # noqa: BLE001 - logged there; its own cursor, and nobody else's
                self._let_go(portion, error)
                continue
            if portion.outcomes or portion.ahead or portion.position != self._positions.get(key):
                portions.append(portion)
        return portions

    async def _settle(self, portions: Sequence[_Portion]) -> bool:
        """Write portions in one transaction, however long the disk refuses; False where it refused cursors alone.

        Raises:
            Exception: whatever else is wrong with them; nothing was written.
        """
        outcomes = [settlement for portion in portions for settlement in portion.outcomes]
        cursors = {portion.settler.key: portion.position for portion in portions}
        ahead = {portion.settler.key: portion.ahead for portion in portions}
        failures = 0
        while True:
            try:
                await self._log.settle(outcomes, cursors, ahead)
            except RowRefusedError:
                raise
            except BusbarError as error:
                wait = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                failures += 1
                if not outcomes:
                    _log.warning("cursors_not_written", error=error.message, cursors=len(cursors))
                    return False
                _log.warning("outcomes_not_written", error=error.message, outcomes=len(outcomes), retry_in=wait)
                await asyncio.sleep(wait)
            else:
                return True

    async def _settle_alone(self, portion: _Portion) -> bool:
        """Write what one consumer has, each outcome by itself if it must be; whether all of it is durable.

        The cursor comes last: until then, what a crash leaves unwritten is below none.
        """
        try:
            try:
                return await self._settle([portion])
            except Exception as error:  # noqa: BLE001 - the next step says what is wrong
                _log.warning("outcomes_written_singly", subscription=portion.settler.key, error=str(error))
            portion.outcomes = [await self._writable(portion.settler, one) for one in portion.outcomes]
            await self._settle([_Portion(portion.settler, [], portion.position, portion.ahead)])
        except Exception as error:  # noqa: BLE001 - logged there; it is this consumer's trouble alone
            self._let_go(portion, error)
            return False
        return True

    async def _writable(self, settler: Settler, settlement: Settlement) -> Settlement:
        """Write one outcome, or the dead letter that stands for it; what was written."""
        nowhere: dict[str, int] = {}
        try:
            await self._log.settle([settlement], nowhere, {})
        except RowRefusedError as error:
            stored = settlement.stored
            _log.error(
                "outcome_set_aside",
                plugin=settlement.plugin,
                subscription=settlement.subscription,
                event_id=stored.event.id,
                error=error.message,
            )
            letter = msgspec.structs.replace(
                settlement,
                outcome=Outcome.DEAD_LETTERED,
                error=f"what became of it could not be written: {error.message}",
                traceback="",
                retry_at=None,
                started_at=stored.appended_at,
                duration=0.0,
            )
            await self._log.settle([letter], nowhere, {})
            settler.set_aside(settlement)
            return letter
        return settlement

    def _let_go(self, portion: _Portion, error: Exception) -> None:
        """Write nothing more of a consumer: it begins anew from what is durable."""
        settler = portion.settler
        _log.error("consumer_not_settled", subscription=settler.key, outcomes=len(portion.outcomes), error=str(error))
        if self._settlers.get(settler.key) is settler:
            del self._settlers[settler.key]
            self._positions.pop(settler.key, None)
        # What else it has would bring a cursor along that is past what was not written.
        self._let_go_of(settlement for owner, settlement in self._waiting if owner is settler)
        self._waiting = [one for one in self._waiting if one[0] is not settler]
        settler.fail(error)

    def _let_go_of(self, settlements: Iterable[Settlement]) -> None:
        """These outcomes are held no more."""
        gone: dict[str, list[int]] = {}
        for settlement in settlements:
            count = gone.setdefault(settlement.plugin, [0, 0])
            count[0] += 1
            count[1] += _weight(settlement)
        for plugin, (outcomes, weight) in gone.items():
            self._count(plugin, -outcomes, -weight)


def _weight(settlement: Settlement) -> int:
    return len(settlement.stored.body) + len(settlement.traceback)
