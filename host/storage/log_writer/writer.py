"""The host's half of the log's writer: collects what is to be written, sends it in frames, answers everyone who waits.

While a frame is executed the next one collects, so concurrent publishers share a transaction and an fsync, and nobody
waits for a timer. A few frames are on their way at once, so that the core never waits for the loop. What waits is
bounded, in number and bytes; one more is refused with `storage_busy`.

Where the core dies, the host starts it anew and sends again what was not answered and has left no trace.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec
import structlog

from host.storage.errors import (
    LogWriterError,
    RowRefusedError,
    StateBusyError,
    StorageBusyError,
    StorageError,
    StorageFailedError,
)
from host.storage.log_writer.batches import Batch, Flight, alone, closed, refuse, resolve, unknown
from host.storage.log_writer.frames import (
    MAX_FRAME,
    VERSION,
    Answer,
    Answers,
    Done,
    Frame,
    Open,
    Opened,
    Operation,
    Said,
    Settled,
    answers_of,
    encode,
)
from host.storage.log_writer.links import Link
from host.storage.transactions import not_written, row_refused
from host.storage.turns import Turns

MAX_PENDING: Final = 16_384
"""Items that may wait until they are durable; one more is refused with `storage_busy`."""
MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
"""What the waiting items may weigh in all; one item alone may weigh more."""
MAX_ITEM: Final = MAX_FRAME // 2
"""Bytes that one item may weigh: it has to fit into a frame."""
FLYING_FRAMES: Final = 4
FLYING_BYTES: Final = 4 * 2**20
"""Bounds of what is sent and not answered; what comes beyond them collects, and is no worse off for it."""
OPEN_SECONDS: Final = 60.0
"""How long a core has to open the database: it may have to take up the write-ahead log of a host that was killed."""
QUICK_RESTARTS: Final = 3
"""Deaths in `QUICK_SECONDS` after which a core is started again at once; with one more, waits come between."""
QUICK_SECONDS: Final = 60.0
MAX_SENDINGS: Final = 4
"""How often a frame is sent: what a core has died of so many times is refused, instead of being its end for ever."""
CLOSE_SECONDS: Final = 30.0
"""How long closing waits for what is not durable yet."""

_log = structlog.get_logger(__name__)


class Appends(Protocol):
    """Whoever keeps the host's knowledge of the log: told of each frame that is durable, before anyone who waits."""

    def stamp(self) -> int:
        """The time of a frame, in microseconds since the epoch."""
        ...

    def row(self, item: Any) -> tuple[Any, ...]:
        """An event that is to be appended as a row of a frame."""
        ...

    def durable(
        self, items: Sequence[Any], within: Sequence[tuple[Sequence[Any], Done]], stamp: int, answer: Answer
    ) -> list[Any]:
        """Events are durable: those of `items`, then those that operations appended. A result for each of `items`."""
        ...


class LogWriter:
    """Appends, settles, and executes named operations; everything is durable when its future is done.

    Args:
        link: Leads to the core.
        turns: Says when the file may be written.
    """

    def __init__(self, link: Link, turns: Turns) -> None:
        self._link = link
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._life = secrets.token_bytes(16)
        self._appends: Appends | None = None
        self._waiting: deque[Batch] = deque()
        self._collecting = Batch()
        self._flying: dict[int, Flight] = {}
        self._flying_bytes = 0
        self._again_due: deque[Flight] = deque()
        self._number = 0
        self._pending = 0
        self._pending_bytes = 0
        self._opening: asyncio.Future[list[Answer]] | None = None
        self._open = False
        self._closing = False
        self._moved = asyncio.Event()  # something was answered, or the core was lost
        self._down = asyncio.Event()
        self._starting = asyncio.Lock()
        self._kept = False
        self._reason = ""
        self._gave_up = ""
        self._deaths: deque[float] = deque(maxlen=QUICK_RESTARTS)
        self.restarts = 0
        link.heard, link.lost = self._heard, self._lost

    # -- life

    async def start(self) -> None:
        """Have the core open the database, which is there; the link was started before.

        Raises:
            StorageFailedError: it cannot be opened.
        """
        try:
            for answer in await self._opened():
                _log.error("answer_of_nobody", number=answer.number)
        except LogWriterError as error:
            raise StorageFailedError(f"the database cannot be opened: {error.message}") from None

    def attach(self, appends: Appends) -> None:
        """Have `appends` told of what is durable from now on; called before the first event."""
        self._appends = appends

    async def run(self) -> None:
        """Start the core again whenever it is lost; for ever.

        Raises:
            LogWriterError: it was lost too often in a short time, or does not start. Events are refused until this is
                run again and succeeds.
        """
        self._kept = True
        while True:
            if not self._open and not self._closing:
                await self._again()
            self._down.clear()
            await self._down.wait()

    async def close(self) -> None:
        """Write what waits, then end the core. Later writes are refused; closing again does nothing."""
        self._closing = True
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._settled()
        except (TimeoutError, StorageError) as error:
            _log.error("log_not_written_at_the_end", items=self._pending, reason=str(error) or "time is up")
        self._open = False
        await self._link.stop()
        for flight in self._flying.values():
            refuse(flight.batch.waiters, unknown(self._reason or "the host is stopping"))
        for batch in self._left():
            refuse(batch.waiters, closed())
        self._flying.clear()
        self._turns.give(self)

    @property
    def pid(self) -> int | None:
        """The process that writes the log, where it is one of its own and runs."""
        return self._link.pid

    @property
    def trouble(self) -> str:
        """Why nothing is written now; empty while all is well."""
        return "" if self._open else self._gave_up or self._reason or "it is not open"

    @property
    def given_up(self) -> bool:
        """Whether events are refused until the core can be started again."""
        return bool(self._gave_up)

    # -- what is to be written

    def append(self, item: Any, *, weight: int) -> asyncio.Future[Any]:
        """Append an event, as `Appends.row` makes one of it. Cancelling the future undoes nothing.

        Args:
            item: What `Appends.row` gets.
            weight: Bytes that it keeps in memory while it waits.

        Raises:
            StorageBusyError: too much waits already.
            StorageFailedError: the writer is closed, or its core cannot be started.
            RowRefusedError: it is too large.
        """
        batch, answer = self._admit(weight)
        batch.events.append(item)
        batch.of_events.append(answer)
        return answer

    def settle(self, settled: Settled, *, weight: int) -> asyncio.Future[dict[str, int]]:
        """Write outcomes and cursors; the future has what the new dead letters weigh, by plugin. As `append`."""
        batch, answer = self._admit(weight)
        batch.settled.append(settled)
        batch.of_settled.append(answer)
        return answer

    def operate(self, name: str, arguments: Any, events: Sequence[Any] = (), *, weight: int) -> asyncio.Future[Any]:
        """Execute a named operation of the core, with its arguments as a value, and events that it may append.

        The future has what it answers. As `append`.
        """
        batch, answer = self._admit(weight)
        batch.operations.append((name, arguments, events))
        batch.of_operations.append(answer)
        return answer

    # -- on the way out

    def _admit(self, weight: int) -> tuple[Batch, asyncio.Future[Any]]:
        if self._closing:
            raise closed()
        if self._gave_up:
            raise StorageFailedError(f"the log's writer does not run: {self._gave_up}", retry_after=5.0)
        if self._pending >= MAX_PENDING or (self._pending_bytes + weight > MAX_PENDING_BYTES and self._pending):
            raise StorageBusyError("the disk does not keep up: try again in a moment", retry_after=1.0)
        if weight > MAX_ITEM:
            raise RowRefusedError(f"it has {weight} bytes, and the log takes {MAX_ITEM} at once")
        self._pending += 1
        self._pending_bytes += weight
        batch = self._collecting
        if batch.full:
            self._waiting.append(batch)
            batch = self._collecting = Batch()
        if not batch.size:
            # Not at once: whoever else writes in this turn of the loop comes along.
            self._loop.call_soon(self.go)
        batch.size += 1
        batch.weight += weight
        return batch, self._loop.create_future()

    def go(self) -> None:
        """Send what has collected, as far as it may be on its way now; give the turn back where there is nothing."""
        while self._open and (self._again_due or self._waiting or self._collecting.size):
            full = len(self._flying) >= FLYING_FRAMES or (self._flying and self._flying_bytes >= FLYING_BYTES)
            if (full and not self._again_due) or not self._turns.take(self):
                break
            if self._again_due:
                self._link.send(self._again_due.popleft().payload)
            elif self._waiting:
                self._send(self._waiting.popleft())
            else:
                batch, self._collecting = self._collecting, Batch()
                self._send(batch)
        if not self._flying or self._gave_up:
            self._turns.give(self)

    def _send(self, batch: Batch) -> None:
        stamp = 0 if self._appends is None else self._appends.stamp()
        self._number += 1
        try:
            payload = self._payload(batch, stamp)
        except Exception as error:  # noqa: BLE001 - one item's, which is found and refused
            _log.warning("frame_not_made", error=str(error), items=batch.size)
            batch = self._sifted(batch, stamp)
            payload = self._payload(batch, stamp)
        self._flying[self._number] = Flight(payload, batch, stamp)
        self._flying_bytes += len(payload)
        self._link.send(payload)

    def _payload(self, batch: Batch, stamp: int) -> bytes:
        rows: list[Any] = []
        if batch.events and self._appends is not None:
            row = self._appends.row
            for item in batch.events:
                rows += row(item)
        operations = [self._operation(*one) for one in batch.operations]
        payload = encode(Frame(VERSION, self._number, stamp, rows, batch.settled, operations))
        if len(payload) > MAX_FRAME:
            raise OverflowError(f"a frame of {len(payload)} bytes")
        return payload

    def _operation(self, name: str, arguments: Any, events: Sequence[Any]) -> Operation:
        rows: list[Any] = []
        for item in events:
            if self._appends is not None:
                rows += self._appends.row(item)
        return Operation(name, msgspec.Raw(encode(arguments)), rows)

    def _sifted(self, batch: Batch, stamp: int) -> Batch:
        """The batch without what no frame can carry, such as a text that is none; that is refused."""
        kept = Batch(size=batch.size, weight=batch.weight)
        for name in ("events", "settled", "operations"):
            items, answers = getattr(kept, name), getattr(kept, f"of_{name}")
            for item, answer in zip(getattr(batch, name), getattr(batch, f"of_{name}"), strict=True):
                try:
                    self._payload(alone(name, item), stamp)
                except Exception as error:  # noqa: BLE001 - the item's own answer
                    refuse([answer], row_refused(error))
                else:
                    items.append(item)
                    answers.append(answer)
        return kept

    # -- on the way back

    def _heard(self, said: Said) -> None:
        if isinstance(said, Answers):
            for note in said.notes:
                _log.warning("log_writer_noted", note=note)
            self._answered(answers_of(said.answers))
        elif isinstance(said, Opened) and self._opening is not None and not self._opening.done():
            self._opening.set_result(answers_of(said.answers))

    def _answered(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            flight = self._flying.pop(answer.number)
            self._landed(flight)
            try:
                resolve(flight.batch, answer, self._told(flight, answer))
            except Exception as error:  # noqa: BLE001 - logged with its traceback
                # What is durable must be answered; that it cannot be said how is a fault of this host.
                _log.exception("answer_not_understood")
                refuse(flight.batch.waiters, unknown(str(error)))
        self._moved.set()
        self.go()

    def _told(self, flight: Flight, answer: Answer) -> list[Any]:
        """The results of a frame's events; whoever listens has heard of them."""
        if self._appends is None or answer.failed:
            return []
        within = [
            (asked[2], done)
            for asked, done in zip(flight.batch.operations, answer.operations, strict=True)
            if isinstance(done, Done) and done.fresh
        ]
        if not flight.batch.events and not within:
            return []
        return self._appends.durable(flight.batch.events, within, flight.stamp, answer)

    def _landed(self, flight: Flight) -> None:
        self._flying_bytes -= len(flight.payload)
        self._pending -= flight.batch.size
        self._pending_bytes -= flight.batch.weight

    # -- when the core dies

    def _lost(self, reason: str) -> None:
        self._open = False
        self._reason = reason
        if self._opening is not None and not self._opening.done():
            self._opening.set_exception(LogWriterError(f"the log's writer ended: {reason}"))
        elif not self._closing:
            _log.error("log_writer_ended", reason=reason, unanswered=len(self._flying))
        self._moved.set()
        self._down.set()
        if not self._kept:
            with contextlib.suppress(LogWriterError):  # it is what everyone who waits is told
                self._give_up(reason)

    async def _again(self) -> None:
        """Start the core anew, unless it is there, and send what has left no trace."""
        async with self._starting:
            if not self._open:
                await self._start_again()

    async def _start_again(self) -> None:
        while True:
            if not self._gave_up:  # else whoever runs this has waited already
                now = self._loop.time()
                if len(self._deaths) == QUICK_RESTARTS and now - self._deaths[0] < QUICK_SECONDS:
                    self._deaths.clear()
                    self._give_up(f"it ended {QUICK_RESTARTS + 1} times in {QUICK_SECONDS:g} s: {self._reason}")
                self._deaths.append(now)
            try:
                await self._link.start()
                answers = await self._opened()
            except StorageError as error:
                self._reason = error.message
                if self._gave_up or isinstance(error, StateBusyError):
                    self._give_up(error.message)
            else:
                break
        self.restarts += 1
        self._gave_up = ""
        self._again_due.clear()
        known = [answer for answer in answers if answer.number in self._flying]
        left = self._flying.keys() - {answer.number for answer in known}
        for number in sorted(left):
            flight = self._flying[number]
            if flight.sendings < MAX_SENDINGS:
                flight.sendings += 1
                self._again_due.append(flight)
                continue
            del self._flying[number]
            self._landed(flight)
            _log.error("frame_given_up", items=flight.batch.size, sendings=flight.sendings)
            refuse(flight.batch.waiters, not_written("the log's writer ends whenever it is to be written"))
        self._answered(known)

    async def _opened(self) -> list[Answer]:
        """Have the core open the database; the answers of its last transaction, if that was of this host."""
        opening = self._opening = self._loop.create_future()
        self._link.send(encode(Open(VERSION, self._life)))
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                answers: list[Answer] = await opening
        except TimeoutError:
            raise LogWriterError("the log's writer does not open the database in time") from None
        finally:
            self._opening = None
        self._open = True
        return answers

    def _give_up(self, reason: str) -> None:
        """Have nobody wait for a core that may never come back.

        What is durable of their items is not known; what was sent stays, for only so is nothing written twice.

        Raises:
            LogWriterError: always.
        """
        self._gave_up = reason
        for flight in self._flying.values():
            refuse([*flight.batch.of_events, *flight.batch.of_operations], unknown(reason))
        for batch in self._left():
            self._pending -= batch.size
            self._pending_bytes -= batch.weight
            refuse(batch.waiters, not_written(reason))
        self._turns.give(self)
        raise LogWriterError(f"the log's writer does not run: {reason}")

    def _left(self) -> list[Batch]:
        """What was not sent, which is taken out."""
        left, self._collecting = [*self._waiting, self._collecting], Batch()
        self._waiting.clear()
        return left

    async def _settled(self) -> None:
        """Wait until everything is durable, whatever becomes of the core meanwhile."""
        while self._flying or self._waiting or self._collecting.size:
            self._moved.clear()
            if not self._open:
                await self._again()
            self.go()
            if self._flying or self._waiting or self._collecting.size:
                await self._moved.wait()
