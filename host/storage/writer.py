"""The writer of everything but the log: one thread, one connection, one transaction for what waits.

While one commit runs the next batch collects, so concurrent writers share a transaction and an fsync, and
nobody waits for a timer. Batches are collected and answered on the loop, with no lock and one wake-up for
each; the thread only ever sees whole ones. What events wait for is written by the log's writer (`log_writer`), which
takes turns with this one.

What the disk refuses, it refuses for all. What one operation alone raises costs the others nothing.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog

from host.storage.connection import checkpoint
from host.storage.errors import StorageBusyError, StorageFailedError, is_damage, is_machine_failure
from host.storage.transactions import is_of_the_disk, not_written, row_refused, savepoint, transaction
from host.storage.turns import Turns

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]

MAX_PENDING: Final = 16_384
"""Operations that may wait for their commit; one more is refused with `storage_busy`."""
MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
"""What the waiting operations may weigh in all; one alone may weigh more."""
TURN_OPERATIONS: Final = 128
"""Operations of one transaction, some 10 ms: events wait that long at most before it is their turn again."""
TURN_BYTES: Final = 4 * 2**20
IDLE_SECONDS: Final = 1.0
"""How long the writer sits idle before it moves the write-ahead log into the database."""
CHECKED_COMMITS: Final = 512
"""Commits between two looks at the size of the write-ahead log."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Batch:
    """Everything that goes into one transaction."""

    operations: list[Operation] = field(default_factory=list)
    answers: list[asyncio.Future[Any]] = field(default_factory=list)
    weight: int = 0

    @property
    def full(self) -> bool:
        return len(self.operations) >= TURN_OPERATIONS or self.weight >= TURN_BYTES


class Writer:
    """Runs operations on a connection of its own, which nobody else writes with.

    Args:
        connect: Opens the connection; called in the writer's own thread.
        turns: Says when the file may be written; by default nobody else does.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], turns: Turns | None = None) -> None:
        self._connect = connect
        self._turns = turns or Turns()
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Batch] = []
        self._pending = 0
        self._pending_bytes = 0
        self._writing = False
        self._closing = False
        self._handed_over: _Batch | None = None
        self._failure: BaseException | None = None
        self._inbox: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._empty = asyncio.Event()
        self._empty.set()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="writer", daemon=True)

    async def start(self) -> None:
        """Open the connection and take work; raises what `connect` raises."""
        self._thread.start()
        await self._opened

    async def run(self, operation: Callable[[sqlite3.Connection], T], *, weight: int = 0) -> T:
        """Run an operation in one of the next transactions; durable when it returns.

        It shares the transaction with others, and is rolled back alone where it raises. `weight` is what it keeps in
        memory until then, in bytes. Cancelling the wait undoes nothing.

        Raises:
            StorageBusyError: too much waits already.
            StorageFailedError: the database could not be written, or is closed.
            Exception: what the operation raises.
        """
        answer: T = await self.submit(operation, weight=weight)
        return answer

    async def close(self) -> None:
        """Write what waits, then close the connection. Later writes are refused; closing again does nothing."""
        if not self._closing:
            self._closing = True
            await self._empty.wait()
            self._inbox.put(None)
            if self._thread.ident is None:  # it was never started
                self._ended.set()
        await self._ended.wait()

    async def lives(self) -> None:
        """Return when the thread has ended because it was closed; until then nothing.

        Raises:
            StorageFailedError: it ended by what nobody foresaw. Nothing is written any more; who tries hears so.
        """
        await self._ended.wait()
        if self._failure is not None:
            raise _ended_with(self._failure)

    # -- on the loop

    def submit(self, operation: Operation, *, weight: int = 0) -> asyncio.Future[Any]:
        """As `run`, for who does not wait at once; what keeps it from being queued is raised here."""
        if self._failure is not None:
            raise _ended_with(self._failure)
        if self._closing:
            raise StorageFailedError("the database is closed because the host is stopping: try again shortly")
        if self._pending >= MAX_PENDING or (self._pending_bytes + weight > MAX_PENDING_BYTES and self._pending):
            raise StorageBusyError("the disk does not keep up: try again in a moment", retry_after=1.0)
        self._pending += 1
        self._pending_bytes += weight
        self._empty.clear()
        if not self._waiting or self._waiting[-1].full:
            self._waiting.append(_Batch())
            # Not at once: whoever else writes in this turn of the loop comes along.
            self._loop.call_soon(self.go)
        batch = self._waiting[-1]
        answer: asyncio.Future[Any] = self._loop.create_future()
        batch.operations.append(operation)
        batch.answers.append(answer)
        batch.weight += weight
        return answer

    def go(self) -> None:
        """Give the thread the next batch, unless it is busy or it is not its turn; give the turn back without one."""
        if self._writing:
            return
        if not self._waiting:
            self._turns.give(self)
        elif self._turns.take(self):
            self._writing = True
            self._handed_over = self._waiting.pop(0)
            self._inbox.put(self._handed_over)

    def _answer(self, batch: _Batch, results: Sequence[Any]) -> None:
        """The batch is durable, or refused: tell everyone who waits."""
        self._release(batch)
        for answer, result in zip(batch.answers, results, strict=True):
            if answer.done():
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

    def _died(self, error: BaseException) -> None:
        """The thread is gone: nobody may wait for it, nor for its turn."""
        self._failure = error
        self._closing = True
        left = [*([] if self._handed_over is None else [self._handed_over]), *self._waiting]
        self._handed_over, self._waiting = None, []
        for batch in left:
            for answer in batch.answers:
                if not answer.done():
                    answer.set_exception(_ended_with(error))
        self._empty.set()
        self._ended.set()
        self._turns.give(self)

    def _release(self, batch: _Batch) -> None:
        self._writing = False
        self._handed_over = None
        self._pending -= len(batch.operations)
        self._pending_bytes -= batch.weight
        if not self._pending:
            self._empty.set()
        # One transaction is one turn: whoever waits comes first.
        self._turns.give(self)
        self.go()

    # -- in the writer's thread

    def _main(self) -> None:
        try:
            connection = self._connect()
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits the start
            self._loop.call_soon_threadsafe(self._fail_start, error)
            return
        self._loop.call_soon_threadsafe(self._opened.set_result, None)
        try:
            self._serve(connection)
        except BaseException as error:  # noqa: BLE001 - logged; whoever waits, and whoever asks for health, hears of it
            _log.critical("writer_ended", exc_info=error)
            self._loop.call_soon_threadsafe(self._died, error)
        else:
            self._loop.call_soon_threadsafe(self._ended.set)

    def _serve(self, connection: sqlite3.Connection) -> None:
        commits = 0
        while (batch := self._next(connection)) is not None:
            results = self._write(connection, batch)
            commits += 1
            if commits % CHECKED_COMMITS == 0:
                # Before it is answered: until then nobody else writes, whom a wait for readers would keep out.
                self._checkpoint(connection, may_wait=True)
            self._loop.call_soon_threadsafe(self._answer, batch, results)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        except sqlite3.Error as error:
            _log.warning("database_not_closed_cleanly", error=str(error))

    def _fail_start(self, error: Exception) -> None:
        self._closing = True
        self._ended.set()
        self._opened.set_exception(error)

    def _next(self, connection: sqlite3.Connection) -> _Batch | None:
        try:
            return self._inbox.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            self._checkpoint(connection)
        return self._inbox.get()

    @staticmethod
    def _checkpoint(connection: sqlite3.Connection, *, may_wait: bool = False) -> None:
        try:
            checkpoint(connection, may_wait=may_wait)
        except sqlite3.Error as error:
            _log.warning("checkpoint_failed", error=str(error))

    def _write(self, connection: sqlite3.Connection, batch: _Batch) -> list[Any]:
        """A result for each operation; an exception where it was not written."""
        try:
            return self._together(connection, batch)
        except Exception as error:  # noqa: BLE001 - every waiter hears of it, and the writer goes on
            if is_damage(error):
                _log.warning("batch_to_be_written_apart", error=str(error), items=len(batch.operations))
                return self._one_by_one(connection, batch)
            expected = is_machine_failure(error)
            _log.error(
                "batch_not_written",
                error=str(error),
                items=len(batch.operations),
                exc_info=None if expected else error,
            )
            # One for each: a raised exception gathers a traceback that is its waiter's own.
            return [not_written(error) for _ in batch.operations]

    @staticmethod
    def _together(connection: sqlite3.Connection, batch: _Batch) -> list[Any]:
        """Everything in one transaction, each operation within a savepoint of its own."""
        results: list[Any] = []
        with transaction(connection):
            for operation in batch.operations:
                try:
                    with savepoint(connection):
                        results.append(operation(connection))
                except Exception as error:  # the operation's own answer, whatever it is
                    if is_machine_failure(error):
                        raise  # the disk's refusal, not the operation's; or what it met cannot be told from it here
                    results.append(error)
        return results

    @staticmethod
    def _one_by_one(connection: sqlite3.Connection, batch: _Batch) -> list[Any]:
        """Each in a transaction of its own: where one has met a damaged page, SQLite takes nothing more in it."""
        results: list[Any] = []
        for operation in batch.operations:
            try:
                with transaction(connection):
                    found = operation(connection)
                results.append(found)
            except Exception as error:  # noqa: BLE001 - the operation's own answer, whatever it is
                if is_damage(error):
                    results.append(row_refused(error))
                else:
                    results.append(not_written(error) if is_of_the_disk(error) else error)
        return results


def _ended_with(error: BaseException) -> StorageFailedError:
    return StorageFailedError(
        f"nothing is written any more, for the database's writer ended ({type(error).__name__}: {error}): restart the "
        "daemon; nothing that was acknowledged is lost"
    )
